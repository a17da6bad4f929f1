"""Map channels as pictures of numbers, which the browser colours.

A channel is sent once per slide, at a level of at most :data:`MAX_SIDE_PX` pixels a side, as a PNG
whose red and green bytes are the high and low byte of a 16-bit number; blue is 255 where there is
a value, and :data:`UNJUDGED` where the tissue there is unlike the training data: it gets no colour,
as in the pictures. The browser knows the scale and so can show values, windows and colours of its
own choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.stitching import SlideMap
from pathology_scaat.stitching.schema import COUNT_CHANNEL, UNLIKE_CHANNEL

MAX_SIDE_PX = 2048
LEVELS = 65_534
"""The largest stored number; 0 to this stand for ``low`` to ``high``."""


UNJUDGED = 191
"""Blue of a pixel with a value that is not to be coloured."""


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


def channel_picture(path: Path, channel: str) -> ChannelPicture:
    """One channel of a slide map.

    Raises
    ------
    StoreError, UsageError
        If the map or the channel cannot be read.
    """
    slide_map = SlideMap(path)
    level = slide_map.level_for(MAX_SIDE_PX)
    values = slide_map.read(channel, level)
    low, high = _range(values)
    unjudged = None
    if slide_map.meta.with_unlike and channel not in (UNLIKE_CHANNEL, COUNT_CHANNEL):
        with np.errstate(invalid="ignore"):
            unjudged = slide_map.read(UNLIKE_CHANNEL, level) >= UNLIKE_PERCENTILE
    return ChannelPicture(
        encode_values(values, low, high, unjudged), low, high, slide_map.mpp * 2**level,
        slide_map.level_scale_px(level),
    )  # fmt: skip


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = min(0.0, float(known.min())), float(known.max())
    return low, high if high > low else low + 1.0


def encode_values(
    values: NDArray[np.float32], low: float, high: float, unjudged: NDArray[np.bool_] | None = None
) -> bytes:
    """Numbers of a channel, (h, w) float32, NaN where there is none, as a PNG."""
    known = ~np.isnan(values)
    share = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
    number = np.round(share * LEVELS).astype(np.uint16)
    pixels = np.zeros((*values.shape, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = number >> 8, number & 255
    pixels[..., 2] = np.where(known, 255, 0)
    if unjudged is not None:
        pixels[known & unjudged, 2] = UNJUDGED
    # One filter and runs alone: a sixth of the time of the usual search, and nearly as small.
    strategy, one = imagecodecs.PNG.STRATEGY.RLE, imagecodecs.PNG.FILTER.SUB
    return bytes(imagecodecs.png_encode(pixels, level=1, strategy=strategy, filter=one))
