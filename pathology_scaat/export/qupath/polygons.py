"""Polygons that QuPath takes: valid, on its grid of 0.01 px, never a collection."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from pathology_scaat.annotations.validity import made_valid

GRID_PX = 0.01
"""QuPath reduces coordinates to two decimals and refuses what is invalid then."""

MIN_AREA_PX = 1.0
"""Polygons below one pixel become empty or invalid when they are reduced."""


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    parts = shapely.get_parts(geometry, return_index=False)
    found: list[Polygon] = []
    for part in parts:
        if isinstance(part, Polygon):
            found.append(part)
        elif isinstance(part, MultiPolygon) or part.geom_type == "GeometryCollection":
            found.extend(_polygons(part))
    return found


def _on_grid(polygon: Polygon) -> Polygon:
    """The polygon with coordinates as they will be written."""
    snapped: Polygon = shapely.transform(polygon, lambda xy: np.round(xy, 2))
    return snapped


def clean_polygons(geometry: BaseGeometry, frame: BaseGeometry | None = None) -> list[Polygon]:
    """Valid polygons on the 0.01 px grid that cover what ``geometry`` covers.

    Parts without area, parts outside ``frame`` and parts smaller than a pixel are dropped.
    """
    if geometry.is_empty:
        return []
    fixed = made_valid(geometry)
    found: list[Polygon] = []
    for part in _polygons(fixed):
        inside = part if frame is None else part.intersection(frame)
        for piece in _polygons(shapely.set_precision(inside, GRID_PX)):
            rounded = _on_grid(piece)
            if rounded.area >= MIN_AREA_PX and rounded.is_valid:
                found.append(rounded)
    return found


def component_outline(
    mask: NDArray[np.bool_], origin_px: tuple[float, float], scale_px: float
) -> BaseGeometry:
    """Outline of the true pixels of a mask, holes included, exactly along pixel edges.

    Parameters
    ----------
    mask : (H, W) bool
    origin_px : (float, float)
        Position of the mask's corner in the coordinates of the outline.
    scale_px : float
        Side of a mask pixel in those coordinates.
    """
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    stops = np.nonzero(change == -1)[1]
    x0, x1 = (origin_px[0] + edge * scale_px for edge in (starts, stops))
    y0, y1 = (origin_px[1] + (rows + k) * scale_px for k in (0, 1))
    # simplifying by nothing drops the points in the middle of straight edges
    return shapely.simplify(shapely.union_all(shapely.box(x0, y0, x1, y1)), 0)
