"""Who may talk to the review server: one browser on this machine, opened by its link.

The server listens on the loopback interface, which every user and every web page of the machine
can reach. So the printed link holds a token that works once and is exchanged for a cookie
(HttpOnly, SameSite=Strict); every request needs the cookie, a Host header that names the loopback
interface and, where it changes something, an Origin that is the server itself.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

COOKIE = "scaat_review"
LOOPBACK_NAMES = ("127.0.0.1", "localhost")

VIEWER_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""Hash of the one style sheet that OpenSeadragon adds to a page by itself."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; img-src 'self' blob: data:; "
        f"style-src 'self' '{VIEWER_STYLE}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every response: no outside resource, no framing, nothing kept on disk."""


@dataclass
class Access:
    """The secrets of one run of the server, and the rules of who may pass.

    Attributes
    ----------
    port : int
        Where the server listens.
    ports_seen : tuple of int
        Further ports that a Host header may name: those of an ``ssh -L`` tunnel.
    """

    port: int
    ports_seen: tuple[int, ...] = ()
    _token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _session: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _token_used: bool = False

    @property
    def link(self) -> str:
        """The address to open; works once."""
        return f"http://127.0.0.1:{self.port}/?token={self._token}"

    def hosts(self) -> frozenset[str]:
        """Values of a Host header that are this server."""
        ports = (self.port, *self.ports_seen)
        return frozenset(f"{name}:{port}" for name in LOOPBACK_NAMES for port in ports)

    def exchange(self, token: str) -> str | None:
        """The cookie's value for the link's token; None where it is wrong or was used."""
        if self._token_used or not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        self._token_used = True
        return self._session

    def is_known(self, cookie: str | None) -> bool:
        """Whether a request's cookie is that of the browser that opened the link."""
        return cookie is not None and hmac.compare_digest(cookie.encode(), self._session.encode())

    def refusal(self, method: str, host: str | None, origin: str | None) -> str | None:
        """Why a request may not pass, before its cookie is looked at; None where it may."""
        if host not in self.hosts():
            return "this server answers on 127.0.0.1 only"
        if origin is not None and origin not in {f"http://{name}" for name in self.hosts()}:
            return "requests from other pages are refused"
        if method not in ("GET", "HEAD") and origin is None:
            return "requests without an origin may change nothing"
        return None
