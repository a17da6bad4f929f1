"""What a picture shows of a map: only tissue that was looked at, and what stands out there.

A map has values wherever a patch is, glass beside the tissue included. A picture shows them on
tissue only (the values in the files stay), veils what was not looked at, and hatches what is
unlike the training data. Such tissue has no colour unless it is asked for: a model says something
of whatever it is shown, and a colour would be believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.stitching.schema import COUNT_CHANNEL, UNLIKE_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.tissue.config import TissueConfig

LEAST_TISSUE = 0.3
"""Share of the looked-at area below which the picture's own tissue mask is not believed."""
VEIL = 0.65
"""How far what was not looked at goes towards white."""
_PALED = np.round(np.arange(256) * (1 - VEIL) + 255 * VEIL).astype(np.uint8)
HATCH_STEP_PX = 12
RIM_COARSE_PX = 3
"""Pixels of the tissue mask that count as its rim."""
MIN_TRIM_PX = 1.5
"""Picture pixels along one of the mask below which there is nothing to cut back."""
LEAST_GLASS_PX = 1000
LEAST_CONTRAST = 10
"""Difference from glass in any channel, of 255, from which a pixel of the rim is tissue."""
HATCH_INK = 30


@dataclass(frozen=True)
class Examined:
    """Of a picture's pixels, (H, W) bool each.

    Attributes
    ----------
    looked_at : tissue that a patch covers
    unlike : tissue that is unlike the training data
    has_unlike : whether that is known at all
    """

    looked_at: NDArray[np.bool_]
    unlike: NDArray[np.bool_]
    has_unlike: bool

    def shown(self, draw_unlike: bool) -> NDArray[np.bool_]:
        """Where a map may have colour, (H, W) bool: looked at, and known to the model."""
        return self.looked_at if draw_unlike else self.looked_at & ~self.unlike

    @property
    def unlike_share(self) -> float:
        """Share of the looked-at tissue that is unlike the training data."""
        n = np.count_nonzero(self.looked_at)
        return np.count_nonzero(self.unlike) / n if n else 0.0

    @cached_property
    def hatching(self) -> NDArray[np.bool_]:
        """Pixels of the lines across what is unlike the training data, (H, W) bool."""
        return hatch_lines(self.unlike)


def tissue_of(base: RgbImage, pixel_um: float) -> NDArray[np.bool_]:
    """Where a picture of a slide shows tissue, (H, W) bool: as tiling finds it.

    The picture is (H, W, 3) uint8, with ``pixel_um`` µm a pixel.
    """
    # Its kernels take a second to load, which commands that draw nothing need not wait for.
    from pathology_scaat.tissue.segmentation import classify_pixels, clean_mask

    config = TissueConfig()
    height, width = base.shape[:2]
    shrink = max(config.mpp / pixel_um, 1.0)
    size = (max(round(width / shrink), 1), max(round(height / shrink), 1))
    small: RgbImage = np.asarray(cv2.resize(base, size, interpolation=cv2.INTER_AREA), np.uint8)
    px_um = pixel_um * width / size[0]
    pixels = classify_pixels(small, np.ones(small.shape[:2], bool), config.sensitivity)
    mask = clean_mask(
        pixels.stain & ~pixels.ink,
        dark=pixels.dark,
        ink=pixels.ink,
        min_area_px=config.min_area_um2 / px_um**2,
        max_hole_px=config.max_hole_um2 / px_um**2,
        close_radius_px=config.close_radius_um / px_um,
    )
    return _without_glass(base, resampled(mask, (height, width)), config.mpp / pixel_um)


def _without_glass(
    base: RgbImage, tissue: NDArray[np.bool_], coarse_px: float
) -> NDArray[np.bool_]:
    """The mask with its rim cut back to where the picture itself shows something.

    The mask has pixels of ``coarse_px`` pictures' pixels, and is closed and filled: its rim lies
    on glass here and there. Inside, gaps that it has filled stay.
    """
    if coarse_px < MIN_TRIM_PX:
        return tissue
    reach = 2 * math.ceil(RIM_COARSE_PX * coarse_px) + 1
    box = cv2.getStructuringElement(cv2.MORPH_RECT, (reach, reach))
    raw = tissue.view(np.uint8)
    glass = cv2.dilate(raw, box) == 0
    n_glass = np.count_nonzero(glass)
    if n_glass < LEAST_GLASS_PX:
        return tissue
    some = np.flatnonzero(glass)[:: max(n_glass // 20_000, 1)]
    colour = np.median(base.reshape(-1, 3)[some], axis=0).astype(np.uint8).astype(float)
    near = LEAST_CONTRAST - 1
    shown = cv2.bitwise_not(cv2.inRange(cv2.blur(base, (3, 3)), colour - near, colour + near))
    # single pale pixels at the rim are tissue: gaps as wide as a pixel of the mask are closed
    gap = 2 * math.ceil(coarse_px / 2) + 1
    shown = cv2.morphologyEx(shown, cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8))
    inside = np.asarray(cv2.erode(raw, box)) > 0
    kept: NDArray[np.bool_] = tissue & np.logical_or(inside, np.asarray(shown) > 0)
    return kept


def enlarged(values: NDArray[np.generic], base: RgbImage) -> NDArray[np.generic]:
    """Map values in the pixels of the picture under them, a whole number of times larger.

    Values are (h, w) or (h, w, C), of any dtype that OpenCV knows, or bool; the picture is (H, W,
    3).
    """
    zoom = base.shape[0] // values.shape[0]
    if zoom <= 1:
        return values
    size = (values.shape[1] * zoom, values.shape[0] * zoom)
    plain = values.view(np.uint8) if values.dtype == np.bool_ else values
    large = cv2.resize(np.ascontiguousarray(plain), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(large).view(np.bool_) if values.dtype == np.bool_ else np.asarray(large)


def examine(slide_map: SlideMap, level: int, base: RgbImage | None, pixel_um: float,
            size: tuple[int, int]) -> Examined:  # fmt: skip
    """Look at a map level; ``base`` is the slide under it, None where it is not at hand.

    ``size`` is (height, width) of the picture.
    """
    canvas = np.empty((*size, 3), np.uint8)
    covered = np.asarray(enlarged(slide_map.read(COUNT_CHANNEL, level) > 0, canvas), dtype=bool)
    looked = covered
    if base is not None:
        looked = covered & tissue_of(base, pixel_um)
        if np.count_nonzero(looked) < LEAST_TISSUE * np.count_nonzero(covered):
            looked = covered
    unlike = np.zeros_like(looked)
    known = slide_map.meta.with_unlike
    if known:
        with np.errstate(invalid="ignore"):
            far = slide_map.read(UNLIKE_CHANNEL, level) >= UNLIKE_PERCENTILE
        unlike = looked & np.asarray(enlarged(far, canvas), dtype=bool)
    return Examined(looked, unlike, known)


def resampled(where: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask (h, w) in another number of pixels, ``shape`` (H, W), over the same area."""
    large = cv2.resize(
        np.ascontiguousarray(where).view(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST
    )
    return np.asarray(large, dtype=bool)


def paled(base: RgbImage, looked_at: NDArray[np.bool_]) -> RgbImage:
    """What was not looked at, paled: bare tissue and tissue without a value look different.

    The picture is (H, W, 3) uint8, ``looked_at`` (H, W) bool.
    """
    out: RgbImage = np.ascontiguousarray(cv2.LUT(base, _PALED))
    cv2.copyTo(np.ascontiguousarray(base), looked_at.view(np.uint8), out)
    return out


def hatch_lines(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of ``where``, (H, W), that lie on diagonal lines."""
    height, width = where.shape
    line = np.arange(width + HATCH_STEP_PX) % HATCH_STEP_PX < 2
    out = np.empty_like(where)
    for k in range(HATCH_STEP_PX):
        rows = slice(k, height, HATCH_STEP_PX)
        np.logical_and(where[rows], line[k : k + width], out=out[rows])
    return out


def hatched(picture: RgbImage, lines: NDArray[np.bool_]) -> RgbImage:
    """A picture (H, W, 3) with the pixels of ``lines`` (H, W) in dark grey."""
    if not lines.any():
        return picture
    ink = np.full_like(picture, HATCH_INK)
    out: RgbImage = picture.copy()
    cv2.copyTo(ink, lines.view(np.uint8), out)
    return out
