"""Map channels as pictures of numbers, which the browser colours.

A channel is sent once per slide, at a level of at most :data:`MAX_SIDE_PX` pixels a side, as a PNG
whose red and green bytes are the high and low byte of a 16-bit number; blue is 255 where there is
a value, :data:`UNJUDGED` where the tissue there is unlike the training data, and :data:`NO_TISSUE`
on glass: neither gets colour, as in the pictures. The browser knows the scale and so can show
values, windows and colours of its own choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.raster.examined import Examined, examine
from pathology_scaat.export.raster.overlay_png import zoom_of
from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.stitching import SlideMap
from pathology_scaat.stitching.schema import COUNT_CHANNEL, UNLIKE_CHANNEL

MAX_SIDE_PX = 2048
LEVELS = 65_534
"""The largest stored number; 0 to this stand for ``low`` to ``high``."""


UNJUDGED = 191
"""Blue of a pixel with a value that is not to be coloured."""
NO_TISSUE = 127
"""Blue of a pixel with a value where the slide shows no tissue."""

ReadBase = Callable[[SizePx, float], RgbImage]
"""The slide's frame, in so many pixels of so many level-0 pixels each."""


def examined_map(path: Path, read_base: ReadBase | None) -> Examined:
    """What the pictures of a map show of it, on their pixels: tissue, and what is judged.

    ``read_base`` is None where the slide is not at hand: then glass is not known.

    Raises
    ------
    StoreError, SlideReadError
        If map or slide cannot be read.
    """
    slide_map = SlideMap(path)
    level = slide_map.level_for(ExportConfig().png_max_px)
    whole, zoom = slide_map.size_px(level), zoom_of(slide_map, level)
    size = SizePx(whole.width * zoom, whole.height * zoom)
    base = None if read_base is None else read_base(size, slide_map.level_scale_px(level) / zoom)
    pixel_um = slide_map.mpp * 2**level / zoom
    return examine(slide_map, level, base, pixel_um, (size.height, size.width))


@dataclass(frozen=True)
class ChannelPicture:
    """A channel and what its numbers mean: value = low + number / LEVELS * (high - low).

    ``scale_px`` are level-0 slide pixels a pixel of the picture. The last pixels of a coarse level
    reach beyond the map: to fit the picture into the map's box would move what it shows.
    """

    png: bytes
    low: float
    high: float
    mpp: float
    scale_px: float


def channel_picture(path: Path, channel: str, examined: Examined) -> ChannelPicture:
    """One channel of a slide map; ``examined`` is what the pictures show of it.

    Raises
    ------
    StoreError, UsageError
        If the map or the channel cannot be read.
    """
    slide_map = SlideMap(path)
    level = slide_map.level_for(MAX_SIDE_PX)
    values = slide_map.read(channel, level)
    low, high = _range(values)
    kinds = np.full(values.shape, 255, np.uint8)
    if channel != COUNT_CHANNEL:  # where patches lie is a fact, on glass as well
        if channel != UNLIKE_CHANNEL:
            kinds[_resampled(examined.unlike, slide_map, level)] = UNJUDGED
        kinds[~_resampled(examined.looked_at, slide_map, level)] = NO_TISSUE
    kinds[np.isnan(values)] = 0
    return ChannelPicture(
        encode_values(values, low, high, kinds), low, high, slide_map.mpp * 2**level,
        slide_map.level_scale_px(level),
    )  # fmt: skip


def _resampled(mask: NDArray[np.bool_], slide_map: SlideMap, level: int) -> NDArray[np.bool_]:
    """A mask of the pictures on the pixels of a map level; both begin at one corner.

    Of pixels, not of shares: the last pixels of a coarse level reach beyond the map.
    """
    pictures_level = slide_map.level_for(ExportConfig().png_max_px)
    scale = 2.0 ** (level - pictures_level) * zoom_of(slide_map, pictures_level)
    size = slide_map.size_px(level)
    rows = ((np.arange(size.height) + 0.5) * scale).astype(int).clip(0, mask.shape[0] - 1)
    columns = ((np.arange(size.width) + 0.5) * scale).astype(int).clip(0, mask.shape[1] - 1)
    resampled: NDArray[np.bool_] = mask[np.ix_(rows, columns)]
    return resampled


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = min(0.0, float(known.min())), float(known.max())
    return low, high if high > low else low + 1.0


def encode_values(
    values: NDArray[np.float32], low: float, high: float, kinds: NDArray[np.uint8] | None = None
) -> bytes:
    """Numbers of a channel, (h, w) float32, NaN where there is none, as a PNG (h, w, 3) of 8 bits.

    ``kinds``, (h, w), is the blue of each pixel; 255 wherever there is a value if None.
    """
    known = ~np.isnan(values)
    share = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
    number = np.round(share * LEVELS).astype(np.uint16)
    pixels = np.zeros((*values.shape, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = number >> 8, number & 255
    pixels[..., 2] = np.where(known, 255, 0) if kinds is None else kinds
    # One filter and runs alone: a sixth of the time of the usual search, and nearly as small.
    strategy, one = imagecodecs.PNG.STRATEGY.RLE, imagecodecs.PNG.FILTER.SUB
    return bytes(imagecodecs.png_encode(pixels, level=1, strategy=strategy, filter=one))
