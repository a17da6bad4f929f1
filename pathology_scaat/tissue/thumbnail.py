"""A thumbnail of any slide in bounded memory and time."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides.base import RgbImage, Slide
from pathology_scaat.slides.block_mean import block_mean
from pathology_scaat.slides.tiles import TiledSlide, tile_buffer

BAND_PX = 6_000_000
"""Level pixels held at once while a level is shrunk."""

SCALE_TOLERANCE = 0.1
"""How much coarser than asked for (a share) the thumbnail may be."""

MAX_SAMPLES = 96 * 96
SAMPLE_SIDE_PX = 48


@dataclass(frozen=True)
class Thumbnail:
    """A picture of a slide's frame: ``rgb[r, c]`` is the mean of a level-0 box.

    Attributes
    ----------
    rgb : (h, w, 3) uint8
        The box of a pixel has its corner at ``origin_px + (c, r) * scale_px``, and that side.
    readable : (h, w) bool
        False where the slide could not be decoded; ``rgb`` is white there.
    scale_px : float
        Level-0 pixels per thumbnail pixel.
    origin_px : tuple of float
        Level-0 x, y of the upper left corner.
    sampled : bool
        Whether a pixel is the mean of a small window in the middle of its box, not of all of it.
    """

    rgb: RgbImage
    readable: NDArray[np.bool_]
    scale_px: float
    origin_px: tuple[float, float]
    sampled: bool


def make_thumbnail(
    slide: Slide, target_scale: float, max_side_px: int, budget_px: int, threads: int = 1
) -> Thumbnail:
    """Shrink the slide's frame by about ``target_scale`` level-0 pixels per pixel.

    The factor is a whole number of level pixels, so that each thumbnail pixel is the plain
    mean of a block. Blocks that cannot be decoded are marked in ``readable``.

    Where there is a choice the level is one that is shrunk by two at least: JPEG keeps the
    colour of two by two pixels only, and spreads it over the edge of the tissue.
    """
    info = slide.info
    frame = info.frame_px
    target = max(target_scale, max(frame.width, frame.height) / max_side_px, 1.0)
    most = target * (1 + SCALE_TOLERANCE)
    fitting = [i for i, level in enumerate(info.levels) if level.downsample <= most / 2]
    index = max(fitting, key=lambda i: info.levels[i].downsample) if fitting else 0
    level = info.levels[index]
    ds = level.downsample
    x0, y0 = math.floor(frame.x / ds), math.floor(frame.y / ds)
    right = min(math.ceil(frame.right / ds), level.size_px.width)
    bottom = min(math.ceil(frame.bottom / ds), level.size_px.height)
    box = BoxPx(x0, y0, max(right - x0, 1), max(bottom - y0, 1))
    sampled = box.area > budget_px
    if sampled:
        factor = max(math.ceil(math.sqrt(box.area / MAX_SAMPLES)), 1)
        rgb, readable = _sample(slide, index, box, factor)
    else:
        least = math.ceil(max(box.width, box.height) / max_side_px)
        nearest = round(target / ds)
        factor = max(nearest if nearest * ds <= most else math.floor(target / ds), least)
        if isinstance(slide, TiledSlide) and _in_whole_tiles(slide, index, box, factor):
            rgb, readable = _shrink_tiles(slide, index, factor, threads)
        else:
            rgb, readable = _shrink(slide, index, box, factor)
    return Thumbnail(rgb, readable, factor * ds, (x0 * ds, y0 * ds), sampled)


def _in_whole_tiles(slide: TiledSlide, level: int, box: BoxPx, factor: int) -> bool:
    lattice = slide.lattice(level)
    size, tile = lattice.level_size_px, lattice.tile_size_px
    whole = box == BoxPx(0, 0, size.width, size.height)
    return whole and tile.width % factor == 0 and tile.height % factor == 0


def _shrink_tiles(
    slide: TiledSlide, level: int, factor: int, threads: int
) -> tuple[RgbImage, NDArray[np.bool_]]:
    """A whole level whose tiles are whole blocks: each tile is shrunk as it is decoded."""
    lattice = slide.lattice(level)
    size, tile = lattice.level_size_px, lattice.tile_size_px
    high, wide = tile.height // factor, tile.width // factor
    rgb = np.full((-(-size.height // factor), -(-size.width // factor), 3), 255, dtype=np.uint8)
    readable = np.ones(rgb.shape[:2], dtype=bool)
    own = threading.local()

    def shrink(key: tuple[int, int]) -> None:
        if not hasattr(own, "scratch"):
            flat = tile_buffer(tile.height * tile.width * 3)
            own.scratch = flat.reshape(tile.height, tile.width, 3)
        col, row = key
        block = slice(row * high, (row + 1) * high), slice(col * wide, (col + 1) * wide)
        try:
            pixels = slide.read_tile(level, col, row, own.scratch)
        except SlideReadError:
            readable[block] = False
            return
        if pixels is not None:
            block_mean(pixels, factor, rgb[block])

    keys = [(col, row) for row in range(lattice.n_rows) for col in range(lattice.n_cols)]
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(shrink, keys))
    else:
        for key in keys:
            shrink(key)
    return rgb, readable


def _shrink(
    slide: Slide, level: int, box: BoxPx, factor: int
) -> tuple[RgbImage, NDArray[np.bool_]]:
    height, width = math.ceil(box.height / factor), math.ceil(box.width / factor)
    rgb = np.full((height, width, 3), 255, dtype=np.uint8)
    readable = np.ones((height, width), dtype=bool)
    # Bands as high as the memory allows and blocks as wide as the slide: native tiles are
    # then decoded about once. A band that fails is tried again in small blocks.
    band_rows = max(BAND_PX // (box.width * factor), 1)
    for row in range(0, height, band_rows):
        rows = min(band_rows, height - row)
        _fill(slide, level, box, factor, (row, 0, rows, width), rgb, readable)
    return rgb, readable


def _fill(
    slide: Slide,
    level: int,
    box: BoxPx,
    factor: int,
    cells: tuple[int, int, int, int],
    rgb: RgbImage,
    readable: NDArray[np.bool_],
) -> None:
    """Read one block of cells; halve it where it cannot be decoded, down to tile size."""
    row, col, rows, cols = cells
    part = BoxPx(
        box.x + col * factor,
        box.y + row * factor,
        min(cols * factor, box.width - col * factor),
        min(rows * factor, box.height - row * factor),
    )
    try:
        rgb[row : row + rows, col : col + cols] = block_mean(slide.read_level(level, part), factor)
        return
    except SlideReadError:
        if max(part.width, part.height) <= 256 or max(rows, cols) == 1:
            readable[row : row + rows, col : col + cols] = False
            return
    if part.width >= part.height and cols > 1:
        half = cols // 2
        pieces = ((row, col, rows, half), (row, col + half, rows, cols - half))
    else:
        half = rows // 2
        pieces = ((row, col, half, cols), (row + half, col, rows - half, cols))
    for piece in pieces:
        _fill(slide, level, box, factor, piece, rgb, readable)


def _sample(
    slide: Slide, level: int, box: BoxPx, factor: int
) -> tuple[RgbImage, NDArray[np.bool_]]:
    """One small window from the middle of each block, instead of the whole block."""
    height, width = math.ceil(box.height / factor), math.ceil(box.width / factor)
    rgb = np.full((height, width, 3), 255, dtype=np.uint8)
    readable = np.ones((height, width), dtype=bool)
    side = min(SAMPLE_SIDE_PX, factor)
    for row in range(height):
        for col in range(width):
            x = min(box.x + col * factor + (factor - side) // 2, box.right - 1)
            y = min(box.y + row * factor + (factor - side) // 2, box.bottom - 1)
            window = BoxPx(x, y, min(side, box.right - x), min(side, box.bottom - y))
            try:
                pixels = slide.read_level(level, window)
            except SlideReadError:
                readable[row, col] = False
                continue
            rgb[row, col] = np.round(pixels.mean(axis=(0, 1))).astype(np.uint8)
    return rgb, readable
