"""Addresses of slides and stores that lie in object storage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_LOCAL = ("file", "local")


@dataclass(frozen=True)
class SlideUrl:
    """An fsspec URL (s3://, gs://, az://, https://) with the names that a path has."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The file's name; never what follows it, which may be a signature."""
        return unquote(urlsplit(self.url).path.rstrip("/").rpartition("/")[2]) or "slide"

    @property
    def stem(self) -> str:
        return Path(self.name).stem


SlidePlace = Path | SlideUrl
"""Where a slide lies."""


def is_url(place: object) -> bool:
    """Whether something is an fsspec URL and not a path."""
    return _SCHEME.match(str(place)) is not None


def slide_place(place: str | Path | SlideUrl) -> SlidePlace:
    """A path, or a URL; a file:// URL is a path."""
    if not is_url(place):
        return Path(str(place))
    parts = urlsplit(str(place))
    if parts.scheme.lower() in _LOCAL:
        return Path(unquote(parts.path))
    return SlideUrl(str(place))
