"""Where several models differ about a slide, as the page of all slides states it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A sentence, and a link to the tiles as seen from the folder of overlays."""

    text: str
    link: str
