"""The native tiles of a slide's levels, so that each is decoded once and no more.

A level is covered by a lattice of tiles. Readers that know the file's own tiles serve them;
for every other slide :class:`LatticeSlide` cuts the level into tiles of one size.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.slides.base import RgbImage, Slide

WHITE = 255
LATTICE_SIDE_PX = 512
"""Tile side for readers without native tiles: few calls, little read beyond what is wanted."""

CACHE_BYTES = 48 << 20


_VECTOR_BYTES = 32


def tile_buffer(n_bytes: int) -> NDArray[np.uint8]:
    """Memory to decode into, (n_bytes,) uint8, that begins half a vector beside a vector's border.

    libjpeg-turbo writes rows that begin on a border past the caches: a third slower, and
    slow again for whoever reads them next, which is at once.
    """
    owner = np.empty(n_bytes + _VECTOR_BYTES, dtype=np.uint8)
    start = (_VECTOR_BYTES // 2 - owner.ctypes.data) % _VECTOR_BYTES
    return owner[start : start + n_bytes]


@dataclass(frozen=True)
class TileLattice:
    """Tiles of one level: tile (0, 0) begins at level pixel (0, 0)."""

    level_size_px: SizePx
    tile_size_px: SizePx

    @cached_property
    def n_cols(self) -> int:
        return math.ceil(self.level_size_px.width / self.tile_size_px.width)

    @cached_property
    def n_rows(self) -> int:
        return math.ceil(self.level_size_px.height / self.tile_size_px.height)

    def box(self, col: int, row: int) -> BoxPx:
        """The part of the level that a tile covers (cut at the level's edge)."""
        x, y = col * self.tile_size_px.width, row * self.tile_size_px.height
        return BoxPx(
            x,
            y,
            min(self.tile_size_px.width, self.level_size_px.width - x),
            min(self.tile_size_px.height, self.level_size_px.height - y),
        )

    def tiles_of(self, box: BoxPx) -> Iterator[tuple[int, int]]:
        """(column, row) of every tile that a box of level pixels touches, row by row."""
        width, height = self.tile_size_px.width, self.tile_size_px.height
        first_col, first_row = max(box.x // width, 0), max(box.y // height, 0)
        end_col = min(-(-box.right // width), self.n_cols)
        end_row = min(-(-box.bottom // height), self.n_rows)
        for row in range(first_row, end_row):
            for col in range(first_col, end_col):
                yield col, row


@runtime_checkable
class TiledSlide(Protocol):
    """A slide that serves its native tiles."""

    def lattice(self, level: int) -> TileLattice: ...

    def read_tile(
        self, level: int, col: int, row: int, scratch: RgbImage | None = None
    ) -> RgbImage | None:
        """Pixels of one tile, cut at the level's edge; None where the tile is blank (white).

        ``scratch``, an array of the lattice's tile size, may be used for the pixels: what is
        returned is then a view of it, to be used before the scratch is given again.
        Raises :class:`SlideReadError` where it cannot be decoded.
        """
        ...


class LatticeSlide:
    """Serves any :class:`Slide` in tiles of one size.

    A scanned area may begin left of or above the canvas. The lattice then begins there too,
    at :meth:`origin`, and its boxes count from that.
    """

    def __init__(self, slide: Slide, side_px: int = LATTICE_SIDE_PX) -> None:
        self._slide = slide
        self._side_px = side_px

    def origin(self, level: int) -> tuple[int, int]:
        """The level pixel, x and y, at which the lattice begins: (0, 0) or before."""
        frame, scale = self._slide.info.frame_px, self._slide.info.levels[level].downsample
        return min(0, math.floor(frame.x / scale)), min(0, math.floor(frame.y / scale))

    def lattice(self, level: int) -> TileLattice:
        size, (x, y) = self._slide.info.levels[level].size_px, self.origin(level)
        return TileLattice(
            SizePx(size.width - x, size.height - y), SizePx(self._side_px, self._side_px)
        )

    def read_box(self, level: int, box_px: BoxPx) -> RgbImage:
        """Any box of level pixels, beside the lattice, counted from its origin."""
        return self._slide.read_level(level, box_px.shifted(*self.origin(level)))

    def read_tile(
        self, level: int, col: int, row: int, scratch: RgbImage | None = None
    ) -> RgbImage | None:
        return self.read_box(level, self.lattice(level).box(col, row))


def as_tiled(slide: Slide) -> TiledSlide:
    """The slide itself where it serves tiles, else a lattice over it."""
    return slide if isinstance(slide, TiledSlide) else LatticeSlide(slide)


def assemble_into(
    out: RgbImage,
    box: BoxPx,
    lattice: TileLattice,
    tile: Callable[[int, int], RgbImage | None],
) -> None:
    """Fill ``out`` with the pixels of a box; white where there is no tile or a blank one.

    In plain numbers: with half overlap a patch off the grid of tiles has four parts
    or more, and boxes as objects cost half as much as the copying.
    """
    columns = _steps(box.x, box.right, lattice.tile_size_px.width, lattice.level_size_px.width)
    rows = _steps(box.y, box.bottom, lattice.tile_size_px.height, lattice.level_size_px.height)
    covered = 0
    parts = []
    for row, from_y, to_y, high in rows:
        for col, from_x, to_x, wide in columns:
            pixels = tile(col, row)
            if pixels is not None:
                covered += wide * high
                parts.append((pixels, from_y, from_x, to_y, to_x))
    if covered < box.area:
        out[...] = WHITE
    for pixels, from_y, from_x, to_y, to_x in parts:
        out[to_y, to_x] = pixels[from_y, from_x]


def _steps(begin: int, end: int, side: int, length: int) -> list[tuple[int, slice, slice, int]]:
    """The tiles of a stretch along an axis: number, where in tile and stretch, how long."""
    steps = []
    stop = min(end, length)
    for number in range(max(begin // side, 0), -(-stop // side)):
        low, high = max(number * side, begin), min((number + 1) * side, stop)
        if low < high:
            there = slice(low - number * side, high - number * side)
            steps.append((number, there, slice(low - begin, high - begin), high - low))
    return steps


def assemble(
    box: BoxPx, lattice: TileLattice, tile: Callable[[int, int], RgbImage | None]
) -> RgbImage:
    """Pixels of a box out of tiles; white where there is no tile or a blank one."""
    out = np.empty((box.height, box.width, 3), dtype=np.uint8)
    assemble_into(out, box, lattice, tile)
    return out


class TileCache:
    """The most recently used tiles of a slide, at most so many bytes of them."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: OrderedDict[tuple[int, int, int], RgbImage | None] = OrderedDict()

    def get(
        self, key: tuple[int, int, int], make: Callable[[int, int, int], RgbImage | None]
    ) -> RgbImage | None:
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        pixels = make(*key)
        self._tiles[key] = pixels
        self._bytes += 0 if pixels is None else pixels.nbytes
        while self._bytes > self._max_bytes and len(self._tiles) > 1:
            _, dropped = self._tiles.popitem(last=False)
            self._bytes -= 0 if dropped is None else dropped.nbytes
        return pixels

    def clear(self) -> None:
        self._tiles.clear()
        self._bytes = 0


def check_box(box: BoxPx, subject: str) -> None:
    """Refuse a box without pixels.

    Raises
    ------
    SlideReadError
        If its width or height is below 1 px.
    """
    if box.width < 1 or box.height < 1:
        raise SlideReadError(
            subject, f"a box of {box.width} x {box.height} px was asked for", "ask for pixels"
        )
