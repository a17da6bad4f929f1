"""Aperio-style slides of any size for the benchmarks: tissue in one corner, glass elsewhere.

Tissue tiles repeat from a small set of noise pictures, which costs a decoder as much as
tiles that are all different; about 10 kB a tile at JPEG quality 80, as in a real slide.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from scipy import ndimage

TILE_PX = 256
QUALITY = 80
MPP = 0.5
VARIANTS = 16


def tissue_tiles(scale: int) -> list[bytes]:
    """Encoded tissue tiles of a level; coarser levels show finer structure per pixel."""
    tiles = []
    for number in range(VARIANTS):
        rng = np.random.default_rng((number, scale))
        side = TILE_PX
        coarse = ndimage.gaussian_filter(rng.normal(size=(side, side)), 12, mode="wrap")
        nuclei = ndimage.gaussian_filter(rng.normal(size=(side, side)), 3.0, mode="wrap")
        fine = rng.normal(size=(side, side, 3)) * 3.5
        eosin = 0.35 + 0.12 * coarse / coarse.std()
        haematoxylin = np.clip(nuclei / nuclei.std() - 0.8, 0, 1.6) * 0.5
        density = eosin[..., None] * np.array([0.13, 0.88, 0.46]) + haematoxylin[
            ..., None
        ] * np.array([0.65, 0.70, 0.29])
        rgb = np.clip(243 * 10.0 ** (-np.clip(density, 0, None)) + fine, 0, 255).astype(np.uint8)
        tiles.append(imagecodecs.jpeg_encode(rgb, level=QUALITY, subsampling="420"))
    return tiles


def write_slide(path: Path, side_px: int, tissue_px: tuple[int, int]) -> Path:
    """Write a square slide whose upper left ``tissue_px`` (width, height) is tissue."""
    glass = np.full((TILE_PX, TILE_PX, 3), 243, np.uint8)
    blank = imagecodecs.jpeg_encode(glass, level=QUALITY, subsampling="420")

    def tiles(scale: int, count: int) -> Iterator[bytes]:
        made = tissue_tiles(scale)
        cols, rows = (size // (scale * TILE_PX) for size in tissue_px)
        for row in range(count):
            for col in range(count):
                inside = col < cols and row < rows
                yield made[(col * 7 + row * 13) % VARIANTS] if inside else blank

    with tifffile.TiffWriter(path, bigtiff=side_px > 30_000) as tiff:
        for scale in (1, 4, 16):
            side = -(-side_px // scale)
            count = -(-side // TILE_PX)
            text = (
                f"Aperio Image Library v12.0.0 \r\n{side_px}x{side_px} [0,0 {side}x{side}] "
                f"({TILE_PX}x{TILE_PX}) JPEG/YCC Q={QUALITY}|AppMag = 20|MPP = {MPP}"
            )
            tiff.write(
                tiles(scale, count), shape=(side, side, 3), dtype=np.uint8, photometric="ycbcr",
                subsampling=(2, 2), compression="jpeg", tile=(TILE_PX, TILE_PX),
                subfiletype=0, description=text, metadata=None, software=False,
            )  # fmt: skip
            if scale == 1:  # the second image of an Aperio file is its thumbnail, in strips
                tiff.write(
                    np.full((256, 256, 3), 243, np.uint8), photometric="rgb", compression="jpeg",
                    rowsperstrip=16, subfiletype=0, description=text, metadata=None,
                    software=False,
                )  # fmt: skip
    return path
