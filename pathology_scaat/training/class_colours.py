"""Names and colours of a model's classes as QuPath knows them; no two of one model look alike.

Two colours differ by at least :data:`MIN_DELTA_E` in CIEDE2000 (about 2 is a just visible
difference of large patches; tiles are small and seen through tissue). Classes that QuPath has
a colour for come first and keep it. The others take colours in an order that their own name
gives, so that a class has the same colour in most models; upper and lower case are one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

MIN_DELTA_E = 20.0
"""Least difference between two classes of a model."""

QUPATH_COLOURS: dict[str, Colour] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
    "Positive": (200, 50, 50),
    "Negative": (90, 90, 180),
}
"""QuPath's own classes and their colours; where two of them meet, the first keeps its colour."""

SYNONYMS = {
    **{name.casefold(): name for name in QUPATH_COLOURS},
    "tumour": "Tumor",
    "immune": "Immune cells",
    "ignore": "Ignore*",
    "region": "Region*",
}

PREFERRED: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0),
    (240, 228, 66),
)  # fmt: skip
"""Okabe and Ito's colour-blind-safe set, for classes that QuPath has no colour for."""

_STEPS = (0, 23, 46, 70, 93, 116, 139, 162, 185, 209, 232, 255)


def qupath_name(class_name: str) -> str:
    """The name under which QuPath knows a class; its own spelling where it has one.

    QuPath refuses a whole file for an empty class name or one with a line break, so white
    space is made single spaces.
    """
    clean = " ".join(class_name.split()) or "Unnamed"
    return SYNONYMS.get(clean.casefold(), clean)


def _lab(colours: Sequence[Colour]) -> NDArray[np.float64]:
    from skimage.color import rgb2lab

    rgb = np.asarray(colours, dtype=np.float64).reshape(1, -1, 3) / 255
    lab: NDArray[np.float64] = rgb2lab(rgb)[0]
    return lab


def delta_e(one: Sequence[Colour], other: Sequence[Colour]) -> NDArray[np.float64]:
    """CIEDE2000 between colours: (n, 3) and (m, 3) sRGB in 0..255 give (n, m), 0 or more."""
    from skimage.color import deltaE_ciede2000

    first, second = _lab(one)[:, None], _lab(other)[None]
    found: NDArray[np.float64] = deltaE_ciede2000(*np.broadcast_arrays(first, second))
    return found


@lru_cache(maxsize=1)
def _all_colours() -> tuple[Colour, ...]:
    """A grid of sRGB that is neither nearly black nor nearly white."""
    grid = np.array([(r, g, b) for r in _STEPS for g in _STEPS for b in _STEPS])
    lightness = _lab([(int(r), int(g), int(b)) for r, g, b in grid])[:, 0]
    return tuple((int(r), int(g), int(b)) for r, g, b in grid[(lightness > 12) & (lightness < 95)])


def _turned(name: str) -> tuple[Colour, ...]:
    """The preferred colours, beginning where the name says."""
    start = zlib.crc32(name.casefold().encode()) % len(PREFERRED)
    return PREFERRED[start:] + PREFERRED[:start]


@lru_cache(maxsize=64)
def class_colours(class_names: tuple[str, ...]) -> tuple[Colour, ...]:
    """A colour for each class of a model, in its order.

    Where there are more classes than colours that differ enough (more than about two dozen), the
    rest take those that differ most; :func:`alike` names them.
    """
    chosen: dict[int, Colour] = {}
    names = [qupath_name(name) for name in class_names]
    own = list(QUPATH_COLOURS)
    # of two spellings of one of QuPath's classes the first is the class
    first = [names.index(name) for name in own if name in names]
    others = [i for i in range(len(names)) if i not in first]
    others.sort(key=lambda i: (names[i].casefold(), names[i]))
    for index in [*first, *others]:
        given = QUPATH_COLOURS.get(names[index])
        wanted = ([given] if given else []) + list(_turned(names[index]))
        chosen[index] = _farthest(wanted, list(chosen.values()))
    return tuple(chosen[i] for i in range(len(class_names)))


def _farthest(wanted: Sequence[Colour], taken: Sequence[Colour]) -> Colour:
    """The first colour wanted that differs enough from all taken, else the nearest that does."""
    if not taken:
        return wanted[0]
    apart = delta_e(wanted, taken).min(axis=1)
    if (apart >= MIN_DELTA_E).any():
        return wanted[int(np.argmax(apart >= MIN_DELTA_E))]
    grid = _all_colours()
    apart = delta_e(grid, taken).min(axis=1)
    enough = np.flatnonzero(apart >= MIN_DELTA_E + 0.5)
    if not len(enough):
        return grid[int(np.argmax(apart))]
    # close to what is taken: so that more of them find a place
    return grid[int(enough[np.argmin(apart[enough])])]


def alike(class_names: tuple[str, ...], colours: Sequence[Colour]) -> tuple[tuple[str, str], ...]:
    """Pairs of classes whose colours differ by less than :data:`MIN_DELTA_E`."""
    apart = delta_e(colours, colours)
    return tuple(
        (class_names[i], class_names[j])
        for i in range(len(class_names))
        for j in range(i)
        if apart[i, j] < MIN_DELTA_E
    )
