"""The client by which https URLs are read: no private hosts, no redirects, unless asked for.

A URL in a table must not make a machine of a hospital ask its own network: the address of
cloud credentials (169.254.169.254), a service on this machine, another machine's web interface.
Names are judged by what they resolve to, at the moment when the connection is made.
"""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from pathology_scaat.errors import AddressError

_IPV4_IN_IPV6 = (
    ipaddress.IPv6Network("::ffff:0:0/96"),  # mapped
    ipaddress.IPv6Network("::/96"),  # compatible
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64
)
_NOT_PUBLIC_EITHER = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # answers only inside a cloud (Azure)
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; some clouds' services
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _IPV4_IN_IPV6):
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.sixtofour is not None and not is_public(str(ip.sixtofour)):
            return False
        if ip.is_site_local:
            return False
    return (
        ip.is_global
        and not ip.is_multicast
        and not any(ip in network for network in _NOT_PUBLIC_EITHER)
    )


def _private(name: str) -> AddressError:
    return AddressError(
        name,
        "leads to a private, link-local or loopback host",
        "download the file, or allow it with --allow-urls private-hosts",
    )


def _literal(host: str) -> str | None:
    """The IP address that a host's text is, in any spelling; None for a name."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))  # 127.1, 0x7f000001, 2130706433
    except (OSError, UnicodeError):
        return None


def check_host(host: str, name: str) -> None:
    """Refuse a host that is not public as far as its text shows.

    Raises
    ------
    AddressError
        If it is no host, an address that is not public, or a name of this machine.
    """
    host = unicodedata.normalize("NFKC", host).strip("[]").rstrip(".").lower()
    if not host:
        raise AddressError(name, "is an address without a host", "correct it")
    literal = _literal(host)
    if host == "localhost" or host.endswith(".localhost"):
        raise _private(name)
    if literal is not None and not is_public(literal):
        raise _private(name)


def _socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket to a public address: whatever led to it, nothing is sent to another."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise _private("URL")
    return socket.socket(family=family, type=kind, proto=protocol)


@dataclass(frozen=True)
class WebClient:
    """Makes the session of fsspec's HTTP file system (its ``get_client``).

    Equal permissions give equal clients, by which fsspec shares one session for them.
    """

    permissions: tuple[str, ...]

    async def __call__(self, **settings: Any) -> Any:
        import aiohttp

        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(self._redirected)
        settings["trace_configs"] = [*settings.get("trace_configs", ()), trace]
        if "private-hosts" not in self.permissions:
            settings["connector"] = aiohttp.TCPConnector(
                resolver=_public_resolver(), socket_factory=_socket
            )
            # A proxy would resolve names where nobody looks at what they are.
            settings["trust_env"] = False
        return aiohttp.ClientSession(**settings)

    async def _redirected(self, session: Any, context: Any, request: Any) -> None:
        """Stop before the next host is asked."""
        if "redirects" not in self.permissions:
            raise AddressError(
                "URL",
                "redirects to another address",
                "give that one, or allow it with --allow-urls redirects",
            )
        target = request.response.headers.get("Location", "")
        scheme = urlsplit(urljoin(str(request.url), target)).scheme.lower()
        if scheme not in ("https", *(("http",) if "http" in self.permissions else ())):
            raise AddressError("URL", "redirects to an address that is not https", "do not use it")


def _public_resolver() -> Any:
    from aiohttp import ThreadedResolver
    from aiohttp.abc import AbstractResolver

    class PublicResolver(AbstractResolver):
        """Says in a clear sentence what the socket would refuse."""

        def __init__(self) -> None:
            self._resolver = ThreadedResolver()

        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
            found = await self._resolver.resolve(host, port, family)
            if not all(is_public(result["host"]) for result in found):
                raise _private("URL")
            return found

        async def close(self) -> None:
            await self._resolver.close()

    return PublicResolver()
