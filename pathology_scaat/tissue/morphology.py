"""Growing, outlining, closing and sifting of masks; nothing lies outside the picture."""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]

OUTSIDE_IS_EMPTY: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)

_MAX_DISC_PX = 12


def dilated(mask: Mask, times: int = 1) -> Mask:
    """A mask (H, W) grown ``times`` times by one pixel up, down, left and right."""
    grown = cv2.dilate(mask.view(np.uint8), CROSS, iterations=times, **OUTSIDE_IS_EMPTY)
    return grown.view(np.bool_)


def outline(mask: Mask, thickness_px: int) -> Mask:
    """The border of a mask (H, W): its pixels beside the outside, grown to ``thickness_px``."""
    inner = cv2.erode(mask.view(np.uint8), CROSS, **OUTSIDE_IS_EMPTY)
    line = mask & ~inner.view(np.bool_)
    return dilated(line, thickness_px - 1) if thickness_px > 1 else line


def without_small(mask: Mask, max_area_px: int) -> Mask:
    """A mask (H, W) without its 4-connected components of at most ``max_area_px`` pixels."""
    if not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] > max_area_px
    if keep[1:].all():
        return mask
    keep[0] = False  # what is not in the mask
    kept: Mask = np.take(keep, np.asarray(labels, dtype=np.int32))
    return kept


def closed(mask: Mask, radius_px: int) -> Mask:
    """A mask (H, W) after morphological closing by a disc; the outside counts as empty."""
    padded = np.pad(mask, radius_px + 1).view(np.uint8)
    if radius_px <= _MAX_DISC_PX:
        y, x = np.ogrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]
        disc = (x * x + y * y <= radius_px**2).astype(np.uint8)
        filled = cv2.erode(cv2.dilate(padded, disc), disc) > 0
    else:  # the same by distances, whose cost does not grow with the disc
        far = cv2.distanceTransform(1 - padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        near = (far <= radius_px).view(np.uint8)
        filled = cv2.distanceTransform(near, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius_px
    inner: Mask = filled[radius_px + 1 : -radius_px - 1, radius_px + 1 : -radius_px - 1]
    return inner
