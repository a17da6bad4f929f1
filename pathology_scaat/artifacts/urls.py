"""URLs of slides and stores, and the one door through which they are opened.

A URL often comes from a table that somebody else wrote. fsspec knows protocols that run code
(``reference://`` renders templates), read local files, log in to other machines or chain all of
these by ``::``; so those that are wanted are listed here, and nothing else in this package may
give a text to fsspec.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pathology_scaat.errors import AddressError, UsageError

OBJECT_STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
"""Protocols whose hosts the administrator sets (environment, fsspec configuration)."""

SCHEMES = (*OBJECT_STORES, "https")
"""Protocols that are opened without being asked for."""

PERMISSIONS = ("http", "private-hosts", "redirects")
"""What has to be asked for: plain http, hosts that are not public, being sent elsewhere."""

ALLOW_VARIABLE = "SCAAT_ALLOW_URLS"
"""Environment variable with a comma-separated list of :data:`PERMISSIONS`."""

ALLOW_OPTION = "--allow-urls"

MAX_URL_CHARACTERS = 4096

_LOCAL = ("file", "local")
_SCHEME = re.compile(r"^[^/\\:]{2,}://")  # of one letter it is a drive
_HELP = "give a path, or a URL of s3, gs, az, abfs or https"


def _permissions(text: str, subject: str) -> frozenset[str]:
    words = {word.strip().lower() for word in text.split(",")} - {""}
    if unknown := sorted(words - {*PERMISSIONS}):
        raise UsageError(subject, f"does not know '{unknown[0]}'", f"use {', '.join(PERMISSIONS)}")
    return frozenset(words)


def permissions() -> frozenset[str]:
    """What this process was asked to allow.

    Raises
    ------
    UsageError
        If the environment variable holds something else.
    """
    return _permissions(os.environ.get(ALLOW_VARIABLE, ""), ALLOW_VARIABLE)


def allow_urls(text: str | None) -> str | None:
    """Allow a comma-separated list of :data:`PERMISSIONS` in this process and its children.

    Raises
    ------
    UsageError
        If one of them is unknown.
    """
    if text is not None:
        words = permissions() | _permissions(text, ALLOW_OPTION)
        os.environ[ALLOW_VARIABLE] = ",".join(sorted(words))
    return text


@dataclass(frozen=True)
class SlideUrl:
    """A URL (s3://, gs://, az://, https://) with the names that a path has.

    It carries what was allowed where it was made: a job that travels to a worker on another
    machine may there do what was asked for here, and no more.
    """

    url: str
    permissions: frozenset[str] = field(default_factory=permissions, compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The file's name; never what follows it, which may be a signature."""
        return unquote(_parts(self.url).path.rstrip("/").rpartition("/")[2]) or "slide"

    @property
    def stem(self) -> str:
        return Path(self.name).stem


SlideLocation = Path | SlideUrl
"""Where a slide lies."""


def _parts(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:  # brackets that hold no IPv6 address
        return SplitResult("", "", text.partition("://")[2].partition("/")[2], "", "")


def _is_chain(text: str) -> bool:
    if "::" not in text:
        return False
    if "://" in text:
        return True
    from fsspec.registry import known_implementations

    return text.partition("::")[0].strip().lower() in known_implementations


def is_url(location: object) -> bool:
    """Whether something is a URL, of whatever protocol, and not a path."""
    if isinstance(location, Path):
        return False
    text = str(location).strip()
    return _SCHEME.match(text) is not None or _is_chain(text)


def slide_location(location: str | Path | SlideUrl) -> SlideLocation:
    """A path, or a URL that is not yet checked; a file:// URL is a path.

    Raises
    ------
    AddressError
        If it is a file:// URL of another host.
    """
    if isinstance(location, Path | SlideUrl):
        return location
    if not is_url(location):
        return Path(location)
    text = location.strip()
    scheme = text.partition("://")[0].lower()
    if scheme not in _LOCAL or _is_chain(text):
        return SlideUrl(text)
    parts = _parts(text)
    if parts.netloc.lower() not in ("", "localhost"):
        name = unquote(parts.path.rpartition("/")[2]) or "slide"
        raise AddressError(name, "is a file:// URL of another host", "mount it and give the path")
    return Path(unquote(parts.path))


def check_url(url: SlideUrl) -> None:
    """Refuse a URL that may not be opened, by its text alone; nothing is looked up.

    Raises
    ------
    AddressError
        In one sentence that names the file and what is allowed.
    """
    text, name = url.url, url.name
    if _is_chain(text):
        raise AddressError(name, "holds '::', by which protocols are chained", _HELP)
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in (*SCHEMES, "http"):
        raise AddressError(name, f"names the protocol '{scheme[:20]}', which is not opened", _HELP)
    if len(text) > MAX_URL_CHARACTERS or "\\" in text or not text.isprintable():
        raise AddressError(name, "is an address that no file can have", "correct it")
    try:
        parts = urlsplit(text)
        password, host, _ = parts.password, parts.hostname, parts.port
    except ValueError:
        raise AddressError(name, "is an address that no file can have", "correct it") from None
    if any(character.isspace() for character in parts.netloc):
        raise AddressError(name, "is an address that no file can have", "correct it")
    if password is not None or (scheme not in OBJECT_STORES and "@" in parts.netloc):
        raise AddressError(
            name, "holds a password in an address", "give access by the environment instead"
        )
    if scheme in OBJECT_STORES:
        return
    if scheme == "http" and "http" not in url.permissions:
        raise AddressError(
            name, "is an http URL, whose content anybody on the way can change",
            f"use https, or allow it with {ALLOW_OPTION} http",
        )  # fmt: skip
    if "private-hosts" not in url.permissions:
        from pathology_scaat.artifacts.web_client import check_host

        check_host(host or "", name)


def open_filesystem(url: SlideUrl) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it: the only door to fsspec.

    Storage options are those of the environment and of fsspec's configuration, which are the
    administrator's; a URL brings none.

    Raises
    ------
    AddressError
        If the URL may not be opened. What the file system itself raises, later, may have one
        as its cause (:func:`refusal_in`): a host that turns out to be private, a redirect.
    """
    check_url(url)
    import fsspec

    scheme, _, rest = url.url.partition("://")
    address = f"{scheme.lower()}://{rest}"
    if scheme.lower() in OBJECT_STORES:
        system, path = fsspec.core.url_to_fs(address)
        return system, str(path)
    from pathology_scaat.artifacts.web_client import WebClient

    client = WebClient(tuple(sorted(url.permissions)))
    return fsspec.filesystem(scheme.lower(), get_client=client), address


def refusal_in(error: BaseException | None) -> AddressError | None:
    """The :class:`AddressError` among an error's causes and contexts; None without one.

    Libraries of object storage wrap the error by which a URL was refused in errors of their own.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, AddressError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def reason_of(error: BaseException, problem: str) -> tuple[str, str]:
    """What is wrong and what to do, of an error that a file system raised.

    Its own words are not repeated: fsspec's many backends put hosts, paths and signatures
    into them. Where it was refused here, those words are the problem; else ``problem``, with the
    kind of error.
    """
    refusal = refusal_in(error)
    if refusal is not None:
        return refusal.problem, refusal.remedy
    if isinstance(error, ImportError):
        return "is of a protocol whose package is not installed", "install s3fs, gcsfs or adlfs"
    return f"{problem} ({type(error).__name__})", "check URL and access"
