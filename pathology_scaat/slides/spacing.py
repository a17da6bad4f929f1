"""Which µm/px of a file is believed, and the words for why one is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pathology_scaat.errors import SpacingError
from pathology_scaat.geometry import is_plausible_mpp
from pathology_scaat.slides.base import SlideInfo

MAX_ANISOTROPY = 0.01
"""Relative difference of the two axes' µm/px above which a file's pixels are not square."""

NOTED_ANISOTROPY = 0.002
"""The same from which the pixels count as square, and it is told."""

OVERRIDE_TOLERANCE = 0.02
"""A given µm/px further than this from the file's own is worth a note."""

BELIEVED_MPP = (0.1, 4.0)
"""µm/px that slide scanners have: believed without a word."""

POSSIBLE_MPP = (0.05, 10.0)
"""µm/px that a slide file may have: believed with a note. Beyond it a header is wrong."""

_DPI = (72, 96, 100, 120, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 1440, 2400)
"""Resolutions of printers and screens, in dots per inch, that lie beyond what is possible."""

MICRONS_PER_INCH = 25_400.0
NOT_SQUARE = "the pixels are not square"
GIVEN_BY_USER = {"manifest": "the manifest", "--slide-mpp": "--slide-mpp"}
"""Where a µm/px comes from that is not the slide file's, in words."""
_ALTHOUGH = ", although "
"""Between the source of a given µm/px and what the file says of its pixels."""
REMEDY = "add an mpp column with the slide's µm/px to the manifest, or give --slide-mpp"
MAX_ENLARGEMENT = 2.0
"""How many times finer than the scan patches may be without being asked for."""


@dataclass(frozen=True)
class Spacing:
    """The pixel size that a slide's file states.

    Attributes
    ----------
    mpp : float or None
        µm per level-0 pixel; None where the file states none that can be believed.
    source : str
        Which property it was read from, or why there is none.
    notes : tuple of str
        How the value was interpreted, for the user to read.
    """

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


def spacing_from_file(x: object, y: object, *, axes_known: bool = True) -> Spacing:
    """Judge a file's own µm/px along both axes.

    ``axes_known`` False means that which of the two is x is not to be relied on; it is not said
    then.
    """
    (mpp_x, note_x), (mpp_y, note_y) = parse_mpp(x), parse_mpp(y)
    notes = tuple(dict.fromkeys(n for n in (note_x, note_y) if n))
    if mpp_x is None and mpp_y is None:
        reason = notes[0] if notes else "the file states no µm/px"
        return Spacing(None, f"none: {reason}", notes)
    known = [m for m in (mpp_x, mpp_y) if m is not None]
    if len(known) == 1:
        axis = "x" if mpp_y is None else "y"
        notes = (*notes, f"the file states µm/px along {axis} only: the pixels count as square")
    for mpp in known:
        problem = impossible_mpp(mpp)
        if problem:
            return Spacing(None, f"none: the file states {problem}", notes)
    low, high = min(known), max(known)
    if high / low - 1 > MAX_ANISOTROPY:
        sides = (
            f"{mpp_x:g} µm/px along x, {mpp_y:g} along y"
            if axes_known
            else f"{low:g} µm/px along one axis, {high:g} along the other"
        )
        return Spacing(None, f"none: {NOT_SQUARE} ({sides})", notes)
    mpp = math.sqrt(low * high)
    if high / low - 1 > NOTED_ANISOTROPY:
        notes = (
            *notes,
            f"the file states {low:g} and {high:g} µm/px along its two axes: one value serves for "
            f"both, so that lengths may be off by {high / mpp - 1:.1%}",
        )
    return Spacing(mpp, "slide", (*notes, *unusual_mpp("the file", mpp)))


def impossible_mpp(mpp: float) -> str:
    """A stated µm/px and why no slide has it, in words; "" where one may have it."""
    low, high = POSSIBLE_MPP
    if math.isfinite(mpp) and low <= mpp <= high:
        return ""
    if not math.isfinite(mpp) or mpp <= 0:
        return f"{mpp:g} µm/px, which no slide has"
    if mpp < low:
        return f"{mpp:g} µm/px, which is finer than any scanner"
    dpi = MICRONS_PER_INCH / mpp
    nearest = min(_DPI, key=lambda known: abs(known - dpi))
    if abs(nearest / dpi - 1) < 0.005:
        return f"{mpp:.1f} µm/px, which is a print resolution ({nearest} dpi)"
    return f"{mpp:g} µm/px, which no slide has"


def unusual_mpp(who: str, mpp: float) -> tuple[str, ...]:
    """A note where a µm/px is possible, but none that slide scanners have."""
    low, high = BELIEVED_MPP
    if low <= mpp <= high:
        return ()
    side = "finer" if mpp < low else "coarser"
    return (
        f"CHECK THE µm/px: {who} states {mpp:g}, {side} than slide scanners "
        f"({low:g} to {high:g}); if it is wrong, so is every size and magnification",
    )


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
    # What was said of the file's own value is nobody's concern where it is not used.
    notes = tuple(note for note in info.notes if not note.startswith("CHECK THE µm/px"))
    notes += unusual_mpp("the manifest", mpp)
    notes += _distorted(info)
    if info.mpp is not None and abs(info.mpp / mpp - 1) > OVERRIDE_TOLERANCE:
        notes += (f"the manifest's {mpp:g} µm/px overrides the file's {info.mpp:g}",)
    return replace(info, mpp=float(mpp), mpp_source=_source("manifest", info), notes=notes)


def with_fallback(info: SlideInfo, mpp: float | None, subject: str) -> SlideInfo:
    """The same slide with a given µm/px where its own is unknown or not believed.

    Raises
    ------
    SpacingError
        If the given value is no plausible µm/px.
    """
    if mpp is None or info.mpp is not None:
        return info
    if not is_plausible_mpp(mpp):
        raise SpacingError(subject, f"{mpp} is not a plausible µm/px", "correct --slide-mpp")
    reason = info.mpp_source.removeprefix("none: ")
    notes = (*info.notes, f"{mpp:g} µm/px by --slide-mpp, since {reason}", *_distorted(info))
    return replace(info, mpp=float(mpp), mpp_source=_source("--slide-mpp", info), notes=notes)


def _source(given_by: str, info: SlideInfo) -> str:
    """Where a given µm/px comes from; and that the file has two, which artifacts must not lose."""
    if NOT_SQUARE not in info.mpp_source:
        return given_by
    return f"{given_by}{_ALTHOUGH}{info.mpp_source.removeprefix('none: ')}"


def given_by(mpp_source: str) -> tuple[str, str] | None:
    """Who gave a slide's µm/px, and what is wrong with the slide's pixels, in words.

    Parameters
    ----------
    mpp_source : str
        As an artifact records it.

    Returns
    -------
    (str, str) or None
        None where the µm/px is the file's own; the second text is empty where the pixels are
        square, as far as the file says.

    Examples
    --------
    >>> given_by("manifest, although the pixels are not square (0.5 µm/px along x, 1 along y)")
    ('the manifest', 'the pixels are not square (0.5 µm/px along x, 1 along y)')
    >>> given_by("slide") is None
    True
    """
    who, _, although = mpp_source.partition(_ALTHOUGH)
    return (GIVEN_BY_USER[who], although) if who in GIVEN_BY_USER else None


def distortion_warning(mpp_source: str) -> str:
    """What must be read first of a slide whose pixels are not square; empty where they are.

    Parameters
    ----------
    mpp_source : str
        As an artifact records it.
    """
    found = given_by(mpp_source)
    if found is None or not found[1]:
        return ""
    return (
        f"NOT SQUARE: one µm/px was given although by the slide's file {found[1]}. Unless the file "
        "is wrong, the model saw distorted tissue, and lengths and areas are wrong."
    )


def _distorted(info: SlideInfo) -> tuple[str, ...]:
    """A note where one µm/px is given for a slide whose axes have two by its file."""
    if NOT_SQUARE not in info.mpp_source:
        return ()
    reason = info.mpp_source.removeprefix("none: ")
    return (
        f"CHECK THE PIXELS: one µm/px was given where by the file {reason}: unless the file is "
        "wrong, patches are distorted, and lengths and areas are wrong",
    )


def check_enlargement(
    slide_mpp: float, requested_mpp: float, tolerance: float, allowed: bool, subject: str
) -> tuple[str, ...]:
    """A note where patches are finer than the scan.

    Parameters
    ----------
    slide_mpp, requested_mpp : float
        µm/px of the scan and of the patches.
    tolerance : float
        Ratio up to which the two count as equal.
    allowed : bool
        Whether any enlargement was asked for (``--allow-upsampling``).
    subject : str
        The slide, for messages.

    Raises
    ------
    SpacingError
        If the slide would be enlarged more than twice and that is not allowed.
    """
    factor = slide_mpp / requested_mpp
    if factor <= 1 + tolerance:
        return ()
    if factor > MAX_ENLARGEMENT * (1 + tolerance) and not allowed:
        raise SpacingError(
            subject,
            f"was scanned at {slide_mpp:g} µm/px: patches of {requested_mpp:g} µm/px would be "
            f"{factor:.3g} times enlarged",
            f"ask for --mpp {slide_mpp:g} or coarser, or give --allow-upsampling",
        )
    return (
        f"enlarged {factor:.3g} times: patches of {requested_mpp:g} µm/px hold no more than the "
        f"scan's {slide_mpp:g} µm/px",
    )


def spacing_remedy(mpp_source: str) -> str:
    """What to do about a µm/px that is not known, by why it is not."""
    if NOT_SQUARE in mpp_source:
        return f"resample it to square pixels, or, if the file is wrong, {REMEDY}"
    return REMEDY


def require_mpp(info: SlideInfo, subject: str) -> float:
    """The slide's µm/px.

    Raises
    ------
    SpacingError
        If it is unknown.
    """
    if info.mpp is None:
        reason = info.mpp_source.removeprefix("none: ")
        remedy = spacing_remedy(info.mpp_source)
        raise SpacingError(subject, f"its µm/px is unknown ({reason})", remedy)
    return info.mpp
