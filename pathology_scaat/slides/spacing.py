"""Which µm/px of a file is believed, and the words for why one is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pathology_scaat.errors import SpacingError
from pathology_scaat.geometry import is_plausible_mpp
from pathology_scaat.slides.base import SlideInfo

MAX_ANISOTROPY = 0.01
"""Relative difference of the two axes' µm/px above which a file's pixels are not square."""

OVERRIDE_TOLERANCE = 0.02
"""A given µm/px further than this from the file's own is worth a note."""

REMEDY = "add an mpp column with the slide's µm/px to the manifest"


@dataclass(frozen=True)
class Spacing:
    """µm per level-0 pixel, or None with the reason in words."""

    mpp: float | None
    source: str
    notes: tuple[str, ...] = ()


def parse_mpp(text: object) -> tuple[float | None, str]:
    """A number out of a header, and a note where it needed interpretation.

    A decimal comma is read as a decimal point: "0,499" can mean nothing else, since no slide
    has 499 µm/px. Returns (None, note) for what is no number.
    """
    if text is None:
        return None, ""
    cleaned = str(text).strip()
    note = ""
    if "," in cleaned and "." not in cleaned and cleaned.count(",") == 1:
        note = f"µm/px '{cleaned}' was read with a decimal comma"
        cleaned = cleaned.replace(",", ".")
    try:
        return float(cleaned), note
    except ValueError:
        return None, "the µm/px in the file is not a number"


def spacing_from_file(x: object, y: object) -> Spacing:
    """Judge a file's own µm/px along both axes."""
    (mpp_x, note_x), (mpp_y, note_y) = parse_mpp(x), parse_mpp(y)
    notes = tuple(dict.fromkeys(n for n in (note_x, note_y) if n))
    if mpp_x is None and mpp_y is None:
        reason = notes[0] if notes else "the file states no µm/px"
        return Spacing(None, f"none: {reason}", notes)
    known = [m for m in (mpp_x, mpp_y) if m is not None]
    for mpp in known:
        if not is_plausible_mpp(mpp):
            return Spacing(None, f"none: the file states {mpp:g} µm/px, which no slide has", notes)
    low, high = min(known), max(known)
    if high / low - 1 > MAX_ANISOTROPY:
        return Spacing(None, f"none: the pixels are not square ({low:g} and {high:g} µm/px)", notes)
    return Spacing(math.sqrt(low * high), "slide", notes)


def with_override(info: SlideInfo, mpp: float | None, subject: str) -> SlideInfo:
    """The same slide with a µm/px from the manifest, which wins over the file's.

    Raises
    ------
    SpacingError
        If the given value is no plausible µm/px.
    """
    if mpp is None:
        return info
    if not is_plausible_mpp(mpp):
        raise SpacingError(
            subject, f"{mpp} in the manifest is not a plausible µm/px", "correct the mpp column"
        )
    notes = info.notes
    if info.mpp is not None and abs(info.mpp / mpp - 1) > OVERRIDE_TOLERANCE:
        notes += (f"the manifest's {mpp:g} µm/px overrides the file's {info.mpp:g}",)
    return replace(info, mpp=float(mpp), mpp_source="manifest", notes=notes)


def require_mpp(info: SlideInfo, subject: str) -> float:
    """The slide's µm/px.

    Raises
    ------
    SpacingError
        If it is unknown.
    """
    if info.mpp is None:
        reason = info.mpp_source.removeprefix("none: ")
        raise SpacingError(subject, f"its µm/px is unknown ({reason})", REMEDY)
    return info.mpp
