"""Where several models differ about a slide, as the page of all slides states it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """How several models differ about one slide.

    Attributes
    ----------
    text : str
        One sentence, for the page of all slides.
    link : str
        Path of the tiles for QuPath that show it, relative to ``overlays/``.
    """

    text: str
    link: str
