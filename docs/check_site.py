"""A built site loads nothing from the network: ``python docs/check_site.py build/site``."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path

LOADED = {
    "script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"),
    "audio": ("src",), "video": ("src", "poster"), "embed": ("src",), "object": ("data",),
}  # fmt: skip
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "manifest", "preconnect"}
AWAY = ("http://", "https://", "//")


class Loads(HTMLParser):
    """Collects the addresses that a browser fetches by itself: scripts, styles, pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        names = LOADED.get(tag, ())
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").split()):
            names = ("href",)
        self.found += [values[name] for name in names if name in values]


def loaded_from_away(site: Path) -> list[str]:
    """What pages and style sheets of a site load from elsewhere; ``page: address`` each."""
    found = []
    for page in sorted(site.rglob("*.html")):
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        found += [f"{page.name}: {a}" for a in parser.found if a.strip().startswith(AWAY)]
    for sheet in sorted(site.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8")
        found += [f"{sheet.name}: {mark}" for mark in ("url(http", "url(//", "@import") if mark in text]
    return found


if __name__ == "__main__":
    site = Path(sys.argv[1])
    pages = len(list(site.rglob("*.html")))
    away = loaded_from_away(site)
    print("\n".join(away) or f"{pages} pages load nothing from elsewhere")  # noqa: T201
    sys.exit(1 if away or not pages else 0)
