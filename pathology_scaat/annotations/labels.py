"""The label of a patch, from the area that each class covers of it.

The rule, in six sentences. A class covers what its polygons cover; where polygons of
different classes overlap, the smaller polygon lies on top (a detail drawn into an outline),
of equal ones the later in the file. An area whose class is not asked for, or is ignored
(``Ignore*``), belongs to no label, also inside another class; annotations without a class
are no areas at all, unless no annotation of the file has a class and their names are classes
asked for. A background class also owns what no annotation covers. A patch gets the class that
covers most of it, if that is at least ``min_coverage`` of its area; the first asked for wins a
tie. All other patches stay undecided (-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from pathology_scaat.annotations.classes import match_class, with_classes
from pathology_scaat.annotations.limits import overlapping
from pathology_scaat.annotations.model import Area, LabelledPolygon
from pathology_scaat.errors import UsageError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.system.names import name_key

UNLABELLED = -1
"""Value of ``label`` for a patch that no annotation and no slide label decides."""


MAX_PIECE_VERTICES = 256
"""Areas with more vertices are cut up before they are intersected with single patches."""


@dataclass(frozen=True)
class Background:
    """The class of what no annotation covers, and the box of the slide that it may fill."""

    class_name: str
    frame_px: BoxPx


def class_areas(
    polygons: Sequence[LabelledPolygon],
    class_names: Sequence[str],
    background: Background | None = None,
) -> list[list[Area]]:
    """Disjoint areas of each class after overlaps are settled (smaller on top).

    Labels of patches and masks of patches and maps are all made of these.

    Parameters
    ----------
    polygons : sequence of LabelledPolygon
        Annotated areas, level-0 pixels.
    class_names : sequence of str
        Classes asked for.
    background : Background, optional
        Class of the rest of the slide. Only where some area counts for a class asked for: a
        file without any says nothing about the rest either.

    Returns
    -------
    list of list of Polygon
        For each class; no two of all of them overlap.

    Raises
    ------
    UsageError
        If the background is none of the classes.
    """
    drawn = with_classes(polygons, class_names)
    order = sorted(range(len(drawn)), key=lambda i: (drawn[i].geometry.area, -i))
    geometries = [drawn[i].geometry for i in order]
    owners = [match_class(drawn[i].class_name, class_names) for i in order]
    areas: list[list[Area]] = [[] for _ in class_names]
    if not order:
        return areas
    pairs = overlapping(geometries, "annotation file")
    above: list[list[int]] = [[] for _ in order]
    for lower, upper in pairs.T:
        if upper < lower:
            above[int(lower)].append(int(upper))
    for index, owner in enumerate(owners):
        if owner is None:
            continue
        area = geometries[index]
        if above[index]:
            # All that lies on top is cut away, also of the same class: it counts there.
            area = shapely.difference(
                area, shapely.union_all([geometries[j] for j in above[index]])
            )
        areas[owner].extend(p for p in shapely.get_parts(area) if p.geom_type == "Polygon")
    if background is not None:
        _add_background(areas, geometries, class_names, background)
    return areas


def _add_background(
    areas: list[list[Area]],
    drawn: Sequence[Area],
    class_names: Sequence[str],
    background: Background,
) -> None:
    """Give the background class what nobody has drawn, also not in a class not asked for."""
    owner = match_class(background.class_name, class_names)
    if owner is None:
        raise UsageError(
            "background class",
            f"'{background.class_name}' is none of the classes",
            f"choose from {', '.join(class_names)}",
        )
    box = background.frame_px
    frame = shapely.box(box.x, box.y, box.right, box.bottom)
    if not any(shapely.intersects(frame, area) for own in areas for area in own):
        return
    rest = shapely.difference(frame, shapely.union_all(list(drawn)))
    areas[owner].extend(p for p in shapely.get_parts(rest) if p.geom_type == "Polygon")


def _pieces(area: Area) -> list[Area]:
    """Cut an area into pieces of few vertices; together they are the area."""
    done: list[Area] = []
    stack = [area]
    while stack:
        item = stack.pop()
        x0, y0, x1, y1 = item.bounds
        if shapely.get_num_coordinates(item) <= MAX_PIECE_VERTICES or min(x1 - x0, y1 - y0) < 1:
            done.append(item)
            continue
        mid_x, mid_y = (x0 + x1) / 2, (y0 + y1) / 2
        halves = (
            ((x0, y0, mid_x, y1), (mid_x, y0, x1, y1))
            if x1 - x0 >= y1 - y0
            else ((x0, y0, x1, mid_y), (x0, mid_y, x1, y1))
        )
        for box in halves:
            piece = shapely.clip_by_rect(item, *box)
            stack.extend(p for p in shapely.get_parts(piece) if p.area > 0)
    return done


def _covered(
    areas: Sequence[Area], origins: NDArray[np.float64], side: float
) -> NDArray[np.float64]:
    """Area of each box that disjoint areas cover, (N,) in square pixels."""
    covered = np.zeros(len(origins))
    if not areas or not len(origins):
        return covered
    x, y = origins.T
    boxes = shapely.box(x, y, x + side, y + side)
    pieces = np.asarray([piece for area in areas for piece in _pieces(area)], dtype=object)
    piece, patch = shapely.STRtree(boxes).query(pieces, predicate="intersects")
    shapely.prepare(pieces)
    inside = shapely.covers(pieces[piece], boxes[patch])
    np.add.at(covered, patch[inside], side * side)
    # Clipping by a rectangle is ten times as fast as the general intersection.
    rim_piece, rim_patch = piece[~inside], patch[~inside]
    lefts, tops = x[rim_patch].tolist(), y[rim_patch].tolist()
    common = [
        shapely.clip_by_rect(item, left, top, left + side, top + side)
        for item, left, top in zip(pieces[rim_piece], lefts, tops, strict=True)
    ]
    np.add.at(covered, rim_patch, shapely.area(common))
    return covered


def label_patches(
    polygons: Sequence[LabelledPolygon],
    class_names: Sequence[str],
    origins_px: ArrayLike,
    side_px: float,
    min_coverage: float = 0.5,
    background: Background | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Labels and class coverages of square patches; the rule stands in the module's head.

    Parameters
    ----------
    polygons : sequence of LabelledPolygon
        Annotated areas, level-0 pixels.
    class_names : sequence of str
        Classes asked for; a label is an index into them.
    origins_px : (N, 2) array of float
        Level-0 top-left corners, x and y.
    side_px : float
        Side of the patches in level-0 pixels.
    min_coverage : float
        Share of the patch, above 0 and up to 1, that its class must cover at least.
    background : Background, optional
        Class of what no annotation covers, where there are annotations.

    Returns
    -------
    labels : (N,) int16 array
        Index into ``class_names``, -1 where undecided.
    coverage : (N, K) float32 array
        Exact share of each patch that each class covers; a row sums to at most 1.

    Raises
    ------
    UsageError
        If a class is asked for twice, or the side or ``min_coverage`` is out of range.
    """
    keys = [name_key(name) for name in class_names]
    if twice := [n for i, n in enumerate(class_names) if keys[i] in keys[:i]]:
        raise UsageError("class names", f"'{twice[0]}' is named twice", "name each class once")
    if not (np.isfinite(side_px) and side_px > 0):
        raise UsageError("patch side", f"{side_px} is not a length in pixels")
    if not 0 < min_coverage <= 1:
        raise UsageError("min_coverage", f"{min_coverage} is not above 0 and up to 1")
    origins = np.asarray(origins_px, dtype=np.float64).reshape(-1, 2)
    coverage = np.zeros((len(origins), len(class_names)))
    labels = np.full(len(origins), UNLABELLED, dtype=np.int16)
    if not len(origins) or not len(class_names):
        return labels, coverage.astype(np.float32)
    for index, areas in enumerate(class_areas(polygons, class_names, background)):
        coverage[:, index] = _covered(areas, origins, side_px) / side_px**2
    np.clip(coverage, 0.0, 1.0, out=coverage)
    best = coverage.argmax(axis=1)
    # Rounding of the intersection must not decide a patch that is covered exactly enough.
    enough = coverage[np.arange(len(best)), best] >= min_coverage - 1e-9
    labels[enough] = best[enough]
    return labels, coverage.astype(np.float32)
