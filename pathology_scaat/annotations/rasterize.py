"""Masks of patches from the polygons that people drew on the slide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathology_scaat.annotations import LabelledPolygon


def patch_masks(
    polygons: Sequence[LabelledPolygon],
    class_name: str,
    origins_px: NDArray[np.floating[Any]] | NDArray[np.integer[Any]],
    side_level0_px: float,
    side_px: int,
) -> NDArray[np.bool_]:
    """Which pixels of each patch lie in the polygons of a class.

    Parameters
    ----------
    polygons : sequence of LabelledPolygon
        In level-0 pixels.
    class_name : str
    origins_px : (N, 2)
        Level-0 top-left corners, x, y.
    side_level0_px : float
        Side of a patch in level-0 pixels.
    side_px : int
        Side of a patch in its own pixels.

    Returns
    -------
    ndarray, (N, side_px, side_px) bool
        By pixel centres.
    """
    import shapely

    shapes = [p.geometry for p in polygons if p.class_name == class_name]
    masks = np.zeros((len(origins_px), side_px, side_px), dtype=bool)
    if not shapes:
        return masks
    scale = side_level0_px / side_px
    tree = shapely.STRtree(shapes)
    corners = np.asarray(origins_px, dtype=np.float64)
    boxes = shapely.box(
        corners[:, 0], corners[:, 1], corners[:, 0] + side_level0_px, corners[:, 1] + side_level0_px
    )
    pairs = tree.query(boxes, predicate="intersects")
    centres = (np.arange(side_px) + 0.5) * scale
    for patch, shape in zip(*pairs, strict=True):
        # Only what is within the patch: polygons of a slide have thousands of corners.
        visible = shapely.intersection(shapes[shape], boxes[patch])
        shapely.prepare(visible)
        x, y = np.meshgrid(corners[patch, 0] + centres, corners[patch, 1] + centres)
        masks[patch] |= shapely.contains_xy(visible, x, y)
    return masks
