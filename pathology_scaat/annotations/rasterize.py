"""Masks of patches and maps from the areas that the label rule gives a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pathology_scaat.annotations.labels import Background, class_areas
from pathology_scaat.annotations.model import Area, LabelledPolygon


def area_mask(
    areas: Sequence[Area],
    origin_px: tuple[float, float],
    scale_px: float,
    shape: tuple[int, int],
) -> NDArray[np.bool_]:
    """Which pixels of a grid have their centre in any of several areas.

    Parameters
    ----------
    areas : sequence of Polygon or MultiPolygon
        Level-0 pixels. A hole of one area erases no other area.
    origin_px : (float, float)
        Level-0 position of the grid's top-left corner, x and y.
    scale_px : float
        Level-0 pixels per pixel of the grid.
    shape : (int, int)
        Rows and columns.

    Returns
    -------
    ndarray, (H, W) bool
    """
    mask = np.zeros(shape, dtype=bool)
    height, width = shape
    x0, y0 = origin_px
    for area in (part for item in areas for part in shapely.get_parts(item)):
        left, top, right, bottom = area.bounds
        # Only the window of the area: a slide has thousands of small ones.
        c0, c1 = (int(np.clip(np.floor((v - x0) / scale_px), 0, width)) for v in (left, right))
        r0, r1 = (int(np.clip(np.floor((v - y0) / scale_px), 0, height)) for v in (top, bottom))
        c1, r1 = min(c1 + 1, width), min(r1 + 1, height)
        if c0 >= c1 or r0 >= r1:
            continue
        x = x0 + (np.arange(c0, c1) + 0.5) * scale_px
        y = y0 + (np.arange(r0, r1) + 0.5) * scale_px
        shapely.prepare(area)
        mask[r0:r1, c0:c1] |= shapely.contains_xy(area, *np.meshgrid(x, y))
    return mask


def patch_masks(
    polygons: Sequence[LabelledPolygon],
    class_name: str,
    class_names: Sequence[str],
    origins_px: NDArray[np.floating[Any]] | NDArray[np.integer[Any]],
    side_level0_px: float,
    side_px: int,
    background: Background | None = None,
) -> NDArray[np.bool_]:
    """Which pixels of each patch belong to a class, by the rule that labels the patches.

    Parameters
    ----------
    polygons : sequence of LabelledPolygon
        In level-0 pixels.
    class_name : str
        One of ``class_names``.
    class_names : sequence of str
        The classes of the labels.
    origins_px : (N, 2)
        Level-0 top-left corners, x, y.
    side_level0_px : float
        Side of a patch in level-0 pixels.
    side_px : int
        Side of a patch in its own pixels.
    background : Background, optional
        Class of what no annotation covers, as it was for the labels.

    Returns
    -------
    ndarray, (N, side_px, side_px) bool
        By pixel centres.
    """
    masks = np.zeros((len(origins_px), side_px, side_px), dtype=bool)
    index = list(class_names).index(class_name)
    areas = class_areas(polygons, class_names, background)[index]
    if not areas:
        return masks
    corners = np.asarray(origins_px, dtype=np.float64)
    boxes = shapely.box(
        corners[:, 0], corners[:, 1], corners[:, 0] + side_level0_px, corners[:, 1] + side_level0_px
    )
    pairs = shapely.STRtree(areas).query(boxes, predicate="intersects")
    scale = side_level0_px / side_px
    for patch, area in zip(*pairs, strict=True):
        # Only what is within the patch: polygons of a slide have thousands of corners.
        visible = shapely.intersection(areas[area], boxes[patch])
        kept = [p for p in shapely.get_parts(visible) if p.geom_type == "Polygon"]
        x, y = corners[patch]
        masks[patch] |= area_mask(kept, (x, y), scale, (side_px, side_px))
    return masks
