"""A picture of the slide's frame from its pyramid, as large as a map level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.slides.base import RgbImage, Slide

BAND_PX = 16_000_000
GREY = 225
"""Where the slide is not at hand or cannot be read."""


def blank(size_px: SizePx) -> RgbImage:
    return np.full((size_px.height, size_px.width, 3), GREY, np.uint8)


def frame_thumbnail(slide: Slide, size_px: SizePx, scale_px: float) -> RgbImage:
    """The slide's frame at ``scale_px`` level-0 pixels per pixel, (h, w, 3) uint8.

    Read band by band from the level that is just finer, resampled by area. Pixels that cannot
    be decoded are grey. No associated image is opened: they may show the label.
    """
    info, frame = slide.info, slide.info.frame_px
    finer = [i for i, d in enumerate(info.level_downsamples) if d <= scale_px * 1.001]
    level = max(finer, key=lambda i: info.level_downsamples[i]) if finer else 0
    ds = info.level_downsamples[level]
    ratio = scale_px / ds
    out = blank(size_px)
    rows = max(int(BAND_PX / max(size_px.width * ratio * ratio, 1)), 1)
    for top in range(0, size_px.height, rows):
        bottom = min(top + rows, size_px.height)
        out[top:bottom] = _band(slide, level, frame, ds, ratio, size_px.width, (top, bottom))
    return out


def _band(
    slide: Slide, level: int, frame: BoxPx, ds: float, ratio: float, width: int,
    rows: tuple[int, int],
) -> NDArray[np.uint8]:  # fmt: skip
    x0, y0 = frame.x / ds, frame.y / ds + rows[0] * ratio
    x1 = x0 + width * ratio
    y1 = y0 + (rows[1] - rows[0]) * ratio
    box = BoxPx(int(np.floor(x0)), int(np.floor(y0)), 0, 0)
    box = BoxPx(box.x, box.y, int(np.ceil(x1)) - box.x, int(np.ceil(y1)) - box.y)
    try:
        pixels = slide.read_level(level, box)
    except SlideReadError:
        return blank(SizePx(width, rows[1] - rows[0]))
    exact = (x0 - box.x, y0 - box.y, x1 - box.x, y1 - box.y)
    resized = Image.fromarray(pixels).resize(
        (width, rows[1] - rows[0]), Image.Resampling.BOX, box=exact
    )
    return np.asarray(resized, dtype=np.uint8)
