"""How large the patches behind features are and at which magnification, as their files state it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

MPP = "mpp"
"""Attribute of coordinates in files of our own: µm/px of the patches."""
PATCHES_NOT_KNOWN = (
    "The files of features do not state how large their patches are and at which magnification: "
    "that the head is applied to others cannot be noticed later."
)
_RELATIVE = "of the slide's own resolution"
_UNITS = ("µm/px", "x", "µm")
"""How the last words of a statement end, the first that fits. Statements that end alike can be
compared; a share of the slide's own resolution with nothing, since slides differ in that."""


def patch_words(coordinates: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> str:
    """Size and magnification of patches in words that are the same for the same patches.

    Parameters
    ----------
    coordinates : mapping
        Attributes of the coordinates: of TRIDENT, of CLAM, or of our own files.
    file : mapping, optional
        Attributes of the file: of STAMP.

    Returns
    -------
    str
        Empty where they do not say both.

    Examples
    --------
    >>> patch_words({"patch_size": 256, "target_magnification": 20})
    '256 px at 20x'
    >>> patch_words({"patch_size": 256, "downsample": [2.0, 2.0]})
    "256 px at 1/2 of the slide's own resolution"
    >>> patch_words({}, {"tile_size_px": 224, "tile_size_um": 256.0})
    '224 px of 256 µm'
    """
    side = _number(coordinates, "patch_size")
    for name, words in (
        ("target_magnification", "{:g} px at {:g}x"),
        (MPP, "{:g} px at {:g} µm/px"),
        ("downsample", "{:g} px at 1/{:g} " + _RELATIVE),
    ):
        value = _number(coordinates, name)
        if side and value:
            return words.format(side, value)
    side, um = (_number(file or {}, name) for name in ("tile_size_px", "tile_size_um"))
    return f"{side:g} px of {um:g} µm" if side and um else ""


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    try:
        value = float(np.ravel(attributes[name])[0])
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return value if 0 < value < 1e6 else None


def _unit(words: str) -> str:
    return next((unit for unit in _UNITS if words.endswith(unit)), "")


def stated_patches(words: Iterable[str]) -> tuple[str, ...]:
    """The different statements of several files, the most common first; none that is empty."""
    return tuple(said for said, _ in Counter(filter(None, words)).most_common())


def other_patches(stated: str, known: Sequence[str]) -> bool:
    """Whether a statement is surely not among those that a head learnt from.

    Statements in different units (a magnification, µm/px) are not compared, nor are shares of the
    slides' own resolution: half of 40x is 20x.

    Examples
    --------
    >>> other_patches("256 px at 10x", ["256 px at 20x"])
    True
    >>> other_patches("224 px of 256 µm", ["256 px at 20x"])
    False
    >>> other_patches(f"256 px at 1/2 {_RELATIVE}", [f"256 px at 1/1 {_RELATIVE}"])
    False
    """
    unit = _unit(stated)
    return stated not in known and bool(unit) and any(_unit(one) == unit for one in known)


def not_compared(stated: Sequence[str], known: Sequence[str]) -> str:
    """What is to be said where nobody knows whether patches are as a head learnt them; or empty.

    Parameters
    ----------
    stated : sequence of str
        Of each file that the head is applied to; empty where it states nothing.
    known : sequence of str
        Of the files that the head learnt from.
    """
    n_silent = sum(not one for one in stated)
    units = {_unit(one) for one in known}
    n_other = sum(one not in known and (_unit(one) or None) not in units for one in stated if one)
    if not known:
        why = "the head does not record that of its training patches"
    elif n_silent:
        why = f"{n_silent} of {len(stated)} files do not state it"
    elif n_other:
        why = (
            f"{n_other} of {len(stated)} files state it so that it cannot be compared with "
            f"{known[0]}"
        )
    else:
        return ""
    return (
        "Whether the patches have the size and magnification that the head was trained on is not "
        f"known: {why}. Of others its predictions mean nothing."
    )
