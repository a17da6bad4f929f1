"""How much work an annotation file may ask for.

Mending a polygon takes time with the square of its self-crossings (a scribble of 200 random
points: 22 s), finding out whether it is valid with the square of its long parallel edges, and
settling overlaps with the square of the polygons that lie on each other. What people draw is
far below the limits here; a file that was made to keep a machine busy is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pathology_scaat.errors import AnnotationError

MAX_CROSSINGS = 400
"""Self-crossings of one polygon; mending 400 takes 0.7 s."""

MAX_REPAIR = 1e7
"""Sum over a file of the squares of self-crossings: about half a minute."""

MAX_NEAR_EDGES = 30_000_000
"""Pairs of edges with meeting bounding boxes in a file; a drawn outline has few for an edge."""

MAX_OVERLAPS = 3_000_000
"""Pairs of polygons that lie on each other; 100,000 nuclei in an outline are 100,000."""

FEW_POINTS = 500
"""Polygons below it are checked without counting first."""

_PAIRS_A_STEP = 4_000_000
_REDRAW = "draw the areas anew, or simplify them"


@dataclass
class _Work:
    repair: float = 0.0
    near_edges: int = 0
    overlaps: int = 0


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


@contextmanager
def one_budget() -> Iterator[None]:
    """What is done in the block, one file say, shares one budget."""
    token = _work.set(_Work())
    try:
        yield
    finally:
        _work.reset(token)


def _budget() -> _Work:
    return _work.get() or _Work()


def _pairs(items: NDArray[Any], predicate: str | None = None) -> Iterator[NDArray[np.intp]]:
    """(2, n) indices of items that meet each other, in steps of bounded memory."""
    tree = shapely.STRtree(items)
    step = int(max(1, min(1024, _PAIRS_A_STEP // max(len(items), 1))))
    for start in range(0, len(items), step):
        found = tree.query(items[start : start + step], predicate=predicate)
        found[0] += start
        yield found


def _edges(geometry: Any) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """Edges of all rings as line strings; ring of each edge; ring's number of edges, by edge."""
    rings = shapely.get_rings(geometry)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    joined = (ring[:-1] == ring[1:]) & (points[:-1] != points[1:]).any(axis=1)
    lines = shapely.linestrings(np.stack([points[:-1][joined], points[1:][joined]], axis=1))
    owner = ring[:-1][joined]
    return np.atleast_1d(lines), owner, np.bincount(owner)[owner]


def check_size(geometry: Any, subject: str) -> None:
    """Refuse a polygon of which it would take too long to say whether it is valid.

    Raises
    ------
    AnnotationError
        If very many edges lie side by side.
    """
    if shapely.get_num_coordinates(geometry) < FEW_POINTS:
        return
    work = _budget()
    for pairs in _pairs(_edges(geometry)[0]):
        work.near_edges += pairs.shape[1]
        if work.near_edges > MAX_NEAR_EDGES:
            raise AnnotationError(subject, "has too many edges side by side", _REDRAW)


def check_crossings(geometry: Any, subject: str) -> None:
    """Refuse an invalid polygon that it would take too long to mend.

    Raises
    ------
    AnnotationError
        If it, or the file, crosses itself too often.
    """
    lines, ring, n_edges = _edges(geometry)
    crossings = 0
    for one, other in _pairs(lines, "intersects"):
        apart = np.abs(one - other)
        # Neighbours in a ring meet by nature, also its last and first edge.
        wrapped = np.minimum(apart, n_edges[one] - apart)
        neighbours = (ring[one] == ring[other]) & (wrapped <= 1)
        crossings += int((~neighbours & (one < other)).sum())
        if crossings > MAX_CROSSINGS:
            break
    work = _budget()
    work.repair += float(crossings) ** 2
    if crossings > MAX_CROSSINGS or work.repair > MAX_REPAIR:
        raise AnnotationError(subject, "has outlines that cross themselves too often", _REDRAW)


def overlapping(areas: Sequence[Any], subject: str) -> NDArray[np.intp]:
    """(2, n) indices of all areas that meet each other (each with itself too).

    Raises
    ------
    AnnotationError
        If they are too many to be settled.
    """
    items = np.asarray(areas, dtype=object)
    work = _budget()
    found = []
    for pairs in _pairs(items, "intersects"):
        found.append(pairs)
        work.overlaps += pairs.shape[1]
        if work.overlaps > MAX_OVERLAPS + 2 * len(items):
            raise AnnotationError(subject, "has too many areas on top of each other", _REDRAW)
    return np.concatenate(found, axis=1) if found else np.empty((2, 0), np.intp)
