"""The exported page (``index.html``) and the files that it links to, served as they lie on disk."""

from __future__ import annotations

import posixpath
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import tornado.web

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.export.report.page import CONTENT_POLICY
from pathology_scaat.export.report.records import PAGE
from pathology_scaat.review.request_handler import ReviewHandler
from pathology_scaat.review.same_file import same_file

ROUTE = "/exported/"
SHOWN = {
    ".html": "text/html",
    ".png": "image/png",
    ".md": "text/plain",
    ".csv": "text/plain",
    ".json": "application/json",
    ".geojson": "application/json",
}
"""What a browser shows, by the end of a file's name; every other file is offered to be saved."""
CHUNK_BYTES = 1 << 20


class _Links(HTMLParser):
    """Collects what ``href`` and ``src`` of a page name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attrs if name in ("href", "src") and value}


@same_file
def linked_files(page: Path) -> frozenset[str]:
    """Files that an exported page links to, and the page itself.

    Parameters
    ----------
    page : Path
        ``index.html`` of a run's folder of overlays.

    Returns
    -------
    frozenset of str
        Paths relative to the run's output folder, with ``/``; nothing outside of it.
    """
    links = _Links()
    links.feed(page.read_text(encoding="utf-8"))
    folder = page.parent.name
    found = {f"{folder}/{page.name}"}
    for link in links.found:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not parts.path:
            continue
        name = posixpath.normpath(posixpath.join(folder, unquote(parts.path)))
        if not name.startswith(("..", "/")):
            found.add(name)
    return frozenset(found)


def exported_page(out: Path) -> str | None:
    """Where the browser finds the exported page; None where nothing was exported."""
    page = Workspace(out).overlays / PAGE
    return f"{ROUTE}{page.parent.name}/{page.name}" if page.is_file() else None


def listed_file(out: Path, name: str) -> Path | None:
    """The file of a request, if the exported page links to it and it lies in the output folder."""
    page = Workspace(out).overlays / PAGE
    if not page.is_file() or name not in linked_files(page):
        return None
    path = out / name
    inside = path.resolve().is_relative_to(out.resolve())  # no link to a file elsewhere
    return path if inside and path.is_file() else None


class ExportedFile(ReviewHandler):
    """``/exported/PATH``: ``overlays/index.html``, its pictures, overlays and the trust card."""

    async def get(self, name: str) -> None:
        path = await self.work(listed_file, self.review.out, unquote(name))
        if path is None:
            raise tornado.web.HTTPError(404, reason="no such exported file")
        kind = SHOWN.get(path.suffix.lower())
        if kind is None:
            self.set_header("Content-Disposition", "attachment")
        self.set_header("Content-Type", f"{kind or 'application/octet-stream'}; charset=utf-8")
        if kind == "text/html":
            # The page brings its own style sheet inside, and no script.
            self.set_header("Content-Security-Policy", f"{CONTENT_POLICY}; frame-ancestors 'none'")
        with path.open("rb") as file:
            while chunk := await self.work(file.read, CHUNK_BYTES):
                self.write(chunk)
                await self.flush()
