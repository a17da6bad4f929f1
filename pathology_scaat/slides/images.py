"""Which of the images in a file is the slide: one rule for every format.

Scanners and converters put several images into a file: scenes, the macro picture of the
glass with its label, thumbnails, fluorescence channels. The slide is the largest brightfield
RGB image that is not named as a macro, label or thumbnail. What else there is is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.painted import OF_OWN_MAP, OWN_MAP

MIN_SHARE = 1 / 16
"""An RGB image of less than this share of the largest image's area is a picture of it."""


class ImageKind(StrEnum):
    """What an image of a slide file shows, as far as the file says."""

    SLIDE = "slide"
    MACRO = "macro"
    LABEL = "label"
    THUMBNAIL = "thumbnail"


_WORDS = {
    ImageKind.LABEL: re.compile(r"\b(label|barcode)\b", re.IGNORECASE),
    ImageKind.MACRO: re.compile(r"\b(macro|overview|slide preview)\b", re.IGNORECASE),
    ImageKind.THUMBNAIL: re.compile(r"\b(thumbnail|thumb)\b", re.IGNORECASE),
}


class RefusedError(ValueError):
    """A file whose images are none that can be read as a brightfield slide; why, in words."""


@dataclass(frozen=True)
class ImageEntry:
    """One image of a file.

    Attributes
    ----------
    size_px : SizePx
        Width and height of its finest level.
    kind : ImageKind
        What it shows.
    pixels : str
        Its channels and their type in words ("RGB, uint8").
    n_levels : int
        Pyramid levels.
    mpp : float or None
        Its own µm/px, None where unknown or where only the chosen image's is judged.
    problem : str
        Why it cannot be read as a brightfield slide; empty where it can.
    notes : tuple of str
        What was assumed in reading it.
    """

    size_px: SizePx
    kind: ImageKind = ImageKind.SLIDE
    pixels: str = "RGB, uint8"
    n_levels: int = 1
    mpp: float | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        levels = f", {self.n_levels} levels" if self.n_levels > 1 else ""
        spacing = f", {self.mpp:g} µm/px" if self.mpp else ""
        size = f"{self.size_px.width:,} x {self.size_px.height:,} px"
        return f"{self.kind}, {size}, {self.pixels}{levels}{spacing}"


_REMEDIES = (
    (
        re.compile(r"fluorescence|channels|one channel|fourth channel"),
        "give a brightfield scan in RGB",
    ),
    (re.compile("points in time|focal planes"), "export one of them as OME-TIFF"),
    (re.compile(OWN_MAP), OF_OWN_MAP),
    (re.compile("several files"), "convert it to one OME-TIFF"),
)


def remedy_of(problem: str) -> str:
    """What to do about an image that is refused."""
    found = (remedy for pattern, remedy in _REMEDIES if pattern.search(problem))
    return next(found, "convert it to 8-bit RGB")


def kind_of_name(name: str | None) -> ImageKind:
    """What an image shows, by its name; the name itself is never reported."""
    for kind, words in _WORDS.items():
        if name and words.search(name):
            return kind
    return ImageKind.SLIDE


def choose_slide(entries: Sequence[ImageEntry]) -> tuple[int, tuple[str, ...]]:
    """The number of the image that is the slide, and notes of what was left out.

    Raises
    ------
    RefusedError
        If none is a brightfield RGB image, with the reason for the largest one.
    """
    if not entries:
        raise RefusedError("holds no image")
    slides = [i for i, entry in enumerate(entries) if entry.kind is ImageKind.SLIDE]
    if not slides and len(entries) == 1:
        slides = [0]
    if not slides:
        raise RefusedError("holds only macro, label or thumbnail images, which are never read")
    largest = max(slides, key=lambda i: entries[i].size_px.area)
    readable = [i for i in slides if not entries[i].problem]
    if not readable:
        raise RefusedError(entries[largest].problem)
    chosen = max(readable, key=lambda i: entries[i].size_px.area)
    if entries[chosen].size_px.area < MIN_SHARE * entries[largest].size_px.area:
        raise RefusedError(entries[largest].problem)
    return chosen, (*_left_out(entries, chosen), *entries[chosen].notes)


def _left_out(entries: Sequence[ImageEntry], chosen: int) -> tuple[str, ...]:
    others = [entry for i, entry in enumerate(entries) if i != chosen]
    notes = []
    if entries[chosen].kind is not ImageKind.SLIDE:
        notes.append(f"its only image is named as a {entries[chosen].kind}")
    if others:
        counts = Counter(_words(entry) for entry in others)
        parts = [text if n == 1 else f"{n} times {text}" for text, n in counts.items()]
        shown = ", ".join(parts[:4]) + (", ..." if len(parts) > 4 else "")
        size = entries[chosen].size_px
        notes.append(
            f"of {len(entries)} images the largest brightfield one is read "
            f"({size.width} x {size.height} px); left out: {shown}"
        )
    return tuple(notes)


def _words(entry: ImageEntry) -> str:
    size = f"{entry.size_px.width} x {entry.size_px.height} px"
    if entry.kind is not ImageKind.SLIDE:
        return f"a {entry.kind} of {size}"
    colours = "" if not entry.problem else f" ({entry.pixels})"
    return f"an image of {size}{colours}"
