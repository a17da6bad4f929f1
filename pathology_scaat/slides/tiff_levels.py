"""The levels of a TIFF image: where each tile's or strip's bytes are, how they are decoded."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.tiff_colours import (
    JPEG_2000,
    colour_problem,
    decoder,
    merged,
    plane_decoder,
)
from pathology_scaat.slides.tiff_images import Planes, page_size
from pathology_scaat.slides.tiles import TileLattice

# tifffile reports damaged headers through its logger; without a handler there Python
# would print that to the terminal, where one sentence of ours is enough.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MAX_TILE_PX = 4096 * 4096
MAX_STRIP_PX = 64 << 20
"""A compressed strip is decoded whole: 192 MiB at most."""

MAX_TILE_BYTES = MAX_STRIP_PX * 4
MIN_BAND_ROWS = 64
"""Strips of fewer rows are read several at a time."""

ReadBytes = Callable[[int, int], bytes]
"""Bytes of the file by offset and length."""


class UnsuitableError(ValueError):
    """A TIFF that this reader does not serve; another one may. The reason, in words."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Tiles or strips of one page or plane.

    Attributes
    ----------
    offsets, lengths : (n,) int64
        Where each segment's bytes begin in the file, and how many they are; 0 bytes are blank.
    decode : callable
        Encoded bytes, number of the segment and memory that may be used, or None, to (h, w, 3)
        uint8, or (h, w) uint8 of a plane.
    """

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    decode: Callable[[bytes, int, RgbImage | None], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class TiffLevel:
    """One pyramid level, cut into the tiles of ``lattice``.

    ``planes`` holds one list of segments, or three where red, green and blue are apart;
    ``strips`` is how many segments lie in one tile below each other (0: the file has tiles).
    """

    lattice: TileLattice
    planes: tuple[Segments, ...]
    strips: int
    page: Any

    @property
    def lacks_tiles(self) -> bool:
        """Whether some of its tiles were never written."""
        return any(bool((plane.lengths == 0).any()) for plane in self.planes)

    def beyond(self, n_bytes: int) -> tuple[int, int]:
        """How many segments end beyond the end of a file, and how many there are."""
        lost = sum(int((p.offsets + p.lengths > n_bytes).sum()) for p in self.planes)
        return lost, sum(len(p.offsets) for p in self.planes)

    def tile(
        self, col: int, row: int, read: ReadBytes, scratch: RgbImage | None
    ) -> RgbImage | None:
        """Decode one tile of the lattice; None where it is blank.

        Raises
        ------
        ValueError
            If a segment has an impossible length, or one of three planes is missing.
        """
        if not self.strips:
            return self._segment(row * self.lattice.n_cols + col, read, scratch)
        first = row * self.strips
        numbers = range(first, min(first + self.strips, len(self.planes[0].offsets)))
        if len(numbers) == 1:
            return self._segment(first, read, scratch)
        parts = [self._segment(number, read, None) for number in numbers]
        if all(part is None for part in parts):
            return None
        size = self.lattice.level_size_px
        rows = self.lattice.tile_size_px.height // self.strips
        out = np.full((rows * len(parts), size.width, 3), 255, dtype=np.uint8)
        for number, part in enumerate(parts):
            if part is not None:
                out[number * rows : number * rows + part.shape[0]] = part
        return out[: self.lattice.box(0, row).height]

    def _segment(self, index: int, read: ReadBytes, scratch: RgbImage | None) -> RgbImage | None:
        found: list[NDArray[np.uint8] | None] = []
        for plane in self.planes:
            length = int(plane.lengths[index])
            if not 0 <= length <= MAX_TILE_BYTES:
                raise ValueError("an impossible length")
            if length == 0:
                found.append(None)
                continue
            data = read(int(plane.offsets[index]), length)
            found.append(plane.decode(data, index, scratch if len(self.planes) == 1 else None))
        present = [pixels for pixels in found if pixels is not None]
        if not present:
            return None
        if len(present) < len(found):
            raise ValueError("a plane is missing")
        if len(present) == 1:
            return present[0]
        return merged(np.stack(present, axis=-1), self.page)


def make_level(planes: Planes) -> TiffLevel:
    """A level from its page, or from its pages of red, green and blue.

    Raises
    ------
    UnsuitableError
        If it cannot be read in bounded memory, or its tables are not whole.
    """
    page = planes[0]
    problem = colour_problem(page)
    if problem and not (problem.startswith("is grey") and len(planes) == 3):
        raise UnsuitableError(f"a level {problem}")
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise UnsuitableError("it has depth")
    size = page_size(page)
    if page.is_tiled:
        tile, strips = SizePx(page.tilewidth, page.tilelength), 0
        if tile.area > MAX_TILE_PX:
            raise UnsuitableError("its tiles are too large")
        count = math.ceil(size.width / tile.width) * math.ceil(size.height / tile.height)
    else:
        rows = min(int(page.rowsperstrip), size.height)
        tile, strips, count = _bands(page, size, rows)
    lattice = TileLattice(size, tile)
    if len(planes) == 3:
        found = tuple(_plane(p, count, 0, 1) for p in planes)
    elif page.planarconfig == 2:
        samples = int(page.samplesperpixel)
        found = tuple(_plane(page, count, i, samples) for i in range(samples))
    else:
        found = (_interleaved(page, count, lattice if not page.is_tiled else None, strips),)
    return TiffLevel(lattice, found, strips, page)


def _is_raw(page: Any) -> bool:
    """Whether a page's rows can be cut out of the file as they are."""
    plain = int(page.compression) == 1 and page.planarconfig == 1 and page.photometric.name == "RGB"
    return bool(plain and page.samplesperpixel == 3 and page.predictor == 1)


def _bands(page: Any, size: SizePx, rows: int) -> tuple[SizePx, int, int]:
    """Tile size of a page of strips, strips in a tile, and strips in the page."""
    if _is_raw(page) and rows == size.height:
        # One strip of plain rows: any part of it can be read.
        return SizePx(size.width, min(MIN_BAND_ROWS, size.height)), 1, 1
    if rows * size.width > MAX_STRIP_PX:
        raise UnsuitableError(
            f"it is one strip of {size.width:,} x {rows:,} px, more than is decoded at once"
        )
    strips = max(1, min(-(-MIN_BAND_ROWS // rows), MAX_TILE_PX // max(rows * size.width, 1)))
    strips = min(strips, -(-size.height // rows))
    return SizePx(size.width, rows * strips), strips, -(-size.height // rows)


def _tables(page: Any, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    offsets = np.asarray(page.dataoffsets, dtype=np.int64)
    lengths = np.asarray(page.databytecounts, dtype=np.int64)
    if len(offsets) != count or len(lengths) != count:
        raise UnsuitableError("its tile table is not whole")
    return offsets, lengths


def _interleaved(page: Any, count: int, bands: TileLattice | None, strips: int) -> Segments:
    offsets, lengths = _tables(page, count)
    if bands is not None and count == 1 and strips == 1 and bands.n_rows > 1:
        return _rows_of(page, int(offsets[0]), int(lengths[0]), bands)
    return Segments(offsets, lengths, decoder(page))


def _rows_of(page: Any, offset: int, length: int, bands: TileLattice) -> Segments:
    """Bands of a strip of plain rows as segments of their own."""
    size, high = bands.level_size_px, bands.tile_size_px.height
    stride = size.width * 3
    if length < stride * size.height:
        raise UnsuitableError("its only strip is cut off")
    starts = np.arange(bands.n_rows, dtype=np.int64) * high
    rows = np.minimum(high, size.height - starts)

    def decode(data: bytes, index: int, scratch: RgbImage | None) -> NDArray[np.uint8]:
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, size.width, 3)

    return Segments(offset + starts * stride, rows * stride, decode)


def _plane(page: Any, count: int, number: int, of: int) -> Segments:
    """The segments of one plane of a page; planes follow each other in its tables."""
    offsets, lengths = _tables(page, count * of)
    if int(page.compression) in JPEG_2000 and page.samplesperpixel > 1 and of == 1:
        raise UnsuitableError("its planes are not single channels")
    part, decode = slice(number * count, (number + 1) * count), plane_decoder(page)
    first = number * count

    def decode_plane(data: bytes, index: int, scratch: RgbImage | None) -> NDArray[np.uint8]:
        return decode(data, first + index)

    return Segments(offsets[part], lengths[part], decode_plane)
