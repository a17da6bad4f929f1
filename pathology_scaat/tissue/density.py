"""Optical densities of thumbnail pixels, in strips that fit a core's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.slides.base import RgbImage

STRIP_PX = 1 << 16

Densities: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the rows of a picture, (H, W, ...), about :data:`STRIP_PX` pixels each."""
    height, width = shape[:2]
    rows = max(1, STRIP_PX // max(width, 1))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def density_table(glass: NDArray[np.float64]) -> NDArray[np.float32]:
    """Optical density of each of the 256 levels of each channel, (3, 256) float32, 0 or more.

    ``glass``, (3,), is the RGB of bare glass, 0 to 255; the density is ``-log10((I + 1) / (glass +
    1))``.
    """
    levels = np.arange(256, dtype=np.float32)
    table = -np.log10((levels + 1.0) / (glass.astype(np.float32)[:, None] + 1.0))
    return np.clip(table, 0.0, None).astype(np.float32)


def densities(rgb: RgbImage, table: NDArray[np.float32]) -> Densities:
    """Optical density of red, green and blue, (h, w) float32 each.

    ``table`` is that of :func:`density_table`.
    """
    red, green, blue = (
        np.take(table[c], np.asarray(plane, dtype=np.uint8))
        for c, plane in enumerate(cv2.split(rgb))
    )
    return red, green, blue
