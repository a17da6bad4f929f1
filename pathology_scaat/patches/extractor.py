"""Extracting the patches of a grid from a slide, decoding each tile once.

An *output tile* is a square of output pixels averaged from the slide's native tiles where the
slide is resampled; without resampling the native tiles are used directly. Patches are extracted
in slide order (row by row). A tile is produced when the first patch needs it and evicted after
the last one, so that neither overlapping patches nor an origin off the tile grid cost a second
decode, tiles that no selected patch touches are never decoded, and memory holds only the rows of
tiles under one row of patches. Where even those are too many (huge tiles on a huge slide), a
byte budget applies and some tiles are produced again. The pixels depend on none of this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, PatchGrid, ReadPlan, SizePx
from pathology_scaat.patches.resample import average, axis_weights, source_box
from pathology_scaat.patches.tile_cache import BufferPool, CacheEntry, Key, TileCache
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.tiles import LatticeSlide, TiledSlide, TileLattice, assemble_into
from pathology_scaat.system.closing import Closing

Encoded = TypeVar("Encoded")
_PatchIndex = tuple[int, int, int]
"""Position in the selection, and column and row in the grid, of a patch."""

_GROUP = 8
"""Patches that one task of the thread pool handles: fewer tasks than one per patch."""
_DIRECT_RUN = 1024
"""Patches handled at once where each patch is one native tile and none shares a tile."""


@dataclass(frozen=True)
class ExtractorLimits:
    """How much is held in memory at once; decides memory and speed, never the pixels.

    At most ``cache_bytes`` of tiles are kept for later rows of patches, ``segment_bytes`` of level
    pixels are processed at once, and an output tile is averaged from at most about
    ``output_tile_source_px`` level pixels per side.
    """

    cache_bytes: int = 192 << 20
    segment_bytes: int = 64 << 20
    output_tile_source_px: int = 1536


def output_tile_side_px(grid: PatchGrid, shrink: float, source_px: int) -> int:
    """Side of an output tile: the step of the grid where that is neither tiny nor huge."""
    largest = max(1, int(source_px / shrink))
    side = grid.step_px
    while side < 64 and side * 2 <= largest:
        side *= 2
    return side if side <= largest else -(-side // -(-side // largest))


class PatchExtractor(Closing):
    """Extracts the patches of a grid from one slide.

    Parameters
    ----------
    slide : TiledSlide
        Serves the tiles of the level that the plan reads.
    plan, grid : ReadPlan, PatchGrid
        Which level, at which factor, and where the patches lie.
    threads : int
        How many threads decode and average; the result is the same.
    limits : ExtractorLimits, optional
        How much is held at once; the result is the same.
    """

    def __init__(
        self,
        slide: TiledSlide,
        plan: ReadPlan,
        grid: PatchGrid,
        *,
        threads: int = 1,
        limits: ExtractorLimits | None = None,
    ) -> None:
        self._slide, self._level, self._grid = slide, plan.level, grid
        self._limits = limits or ExtractorLimits()
        self._shrink = plan.shrink
        # Level pixels count from the lattice's first tile, which may lie beside the canvas.
        left, top = slide.origin(plan.level) if isinstance(slide, LatticeSlide) else (0, 0)
        self._start_x = grid.anchor_x_px / plan.level_downsample - left
        self._start_y = grid.anchor_y_px / plan.level_downsample - top
        self._first_x, self._first_y = round(self._start_x), round(self._start_y)
        self._tile_lattice = slide.lattice(plan.level)
        self._buffers = BufferPool()
        self._tiles = TileCache(self._read_tile, self._limits.cache_bytes, self._buffers)
        self._bad: set[Key] = set()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._averaging = plan.shrink != 1.0
        self._direct = not self._averaging and self._patches_are_tiles()
        if self._averaging:
            side = output_tile_side_px(grid, plan.shrink, self._limits.output_tile_source_px)
            size = SizePx(
                (grid.n_cols - 1) * grid.step_px + grid.patch_size_px,
                (grid.n_rows - 1) * grid.step_px + grid.patch_size_px,
            )
            self._output_lattice = TileLattice(size, SizePx(side, side))
            self._output_tiles = TileCache(
                self._average_output_tile, self._limits.cache_bytes, self._buffers
            )

    def _patches_are_tiles(self) -> bool:
        side, tile = self._grid.patch_size_px, self._tile_lattice.tile_size_px
        patches = (self._first_x, self._first_y, self._grid.step_px)
        return tile == SizePx(side, side) and all(n_px % side == 0 for n_px in patches)

    def _read_tile(self, key: Key) -> CacheEntry:
        size = self._tile_lattice.tile_size_px
        buffer = self._buffers.acquire(size.height, size.width)
        try:
            pixels = self._slide.read_tile(self._level, *key, buffer)
        except SlideReadError:
            self._bad.add(key)
            pixels = None
        # A reader need not use the buffer: it may return an array of its own, or nothing.
        if pixels is None or pixels.base is not buffer.base:
            self._buffers.release(buffer)
            return pixels, None
        return pixels, buffer

    def _axes_box(self, box: BoxPx) -> BoxPx:
        """Level pixels that a box of output pixels is made from."""
        columns = axis_weights(self._start_x, self._shrink, box.x, box.width)
        rows = axis_weights(self._start_y, self._shrink, box.y, box.height)
        return source_box(columns, rows)

    def _average_output_tile(self, key: Key) -> CacheEntry:
        box = self._output_lattice.box(*key)
        needed = self._axes_box(box)
        if all(self._tiles.get(*k) is None for k in self._tile_lattice.tiles_of(needed)):
            return None, None
        source = self._buffers.acquire(needed.height, needed.width)
        assemble_into(source, needed, self._tile_lattice, self._tiles.get)
        tile = self._averaged(source, box)
        self._buffers.release(source)
        return tile, tile

    def _averaged(self, source: RgbImage, box: BoxPx) -> RgbImage:
        columns = axis_weights(self._start_x, self._shrink, box.x, box.width)
        rows = axis_weights(self._start_y, self._shrink, box.y, box.height)
        return average(source, columns, rows, self._buffers.acquire(box.height, box.width))

    def _output_box(self, col: int, row: int) -> BoxPx:
        step, side = self._grid.step_px, self._grid.patch_size_px
        return BoxPx(col * step, row * step, side, side)

    def _level_box(self, col: int, row: int) -> BoxPx:
        if self._averaging:
            return self._axes_box(self._output_box(col, row))
        # The grid's corner is rounded once and steps are whole pixels: all patches are equally far
        # from where the grid puts them, and patches that overlap share their pixels exactly.
        step, side = self._grid.step_px, self._grid.patch_size_px
        return BoxPx(self._first_x + col * step, self._first_y + row * step, side, side)

    def _segments(self, index: NDArray[np.integer]) -> Iterator[list[_PatchIndex]]:
        """Runs of patches that are handled at once; of one grid row where they share tiles."""
        side = self._grid.patch_size_px * max(self._shrink, 1.0)
        most = _DIRECT_RUN
        if not self._direct:
            most = max(1, int(self._limits.segment_bytes / (side * side * 3)))
        run: list[_PatchIndex] = []
        for number, (col, row) in enumerate(index.tolist()):
            if run and ((run[-1][2] != row and not self._direct) or len(run) >= most):
                yield run
                run = []
            run.append((number, col, row))
        if run:
            yield run

    def _evict_above(self, row: int) -> None:
        """Evict every tile that no patch from this grid row on touches."""
        top = self._output_box(0, row).y
        if self._averaging:
            self._output_tiles.evict_above(top // self._output_lattice.tile_size_px.height)
            tile_top = top - top % self._output_lattice.tile_size_px.height
            level_top = self._axes_box(BoxPx(0, tile_top, 1, 1)).y
        else:
            level_top = top + self._first_y
        self._tiles.evict_above(level_top // self._tile_lattice.tile_size_px.height)

    def _load_output_tiles(self, boxes: Sequence[BoxPx]) -> None:
        """Load the output tiles under some output boxes, a bounded number at a time."""
        lattice = self._output_lattice
        wanted = dict.fromkeys(key for box in boxes for key in lattice.tiles_of(box))
        missing = sorted(
            (key for key in wanted if key not in self._output_tiles), key=lambda k: (k[1], k[0])
        )
        side = lattice.tile_size_px.width * max(self._shrink, 1.0)
        most = max(1, int(self._limits.segment_bytes / (side * side * 3)))
        for begin in range(0, len(missing), most):
            part = missing[begin : begin + most]
            sources = [self._axes_box(lattice.box(*key)) for key in part]
            tiles = (k for box in sources for k in self._tile_lattice.tiles_of(box))
            self._tiles.load(tiles, self._pool)
            self._output_tiles.load(part, self._pool)
            self._tiles.evict_to_budget()

    def _reread(self, col: int, row: int) -> RgbImage | None:
        """A patch on its own, where the block that holds it cannot be decoded as a whole."""
        if not isinstance(self._slide, LatticeSlide):
            return None  # its tiles are the file's own: there is nothing smaller to read
        try:
            pixels = self._slide.read_box(self._level, self._level_box(col, row))
        except SlideReadError:
            return None
        return self._averaged(pixels, self._output_box(col, row)) if self._averaging else pixels

    def _fill(self, patch: RgbImage, col: int, row: int) -> bool:
        """Put a patch's pixels into an array; False where they cannot be decoded."""
        box = self._level_box(col, row)
        touched = self._tile_lattice.tiles_of(box)
        if self._direct:
            key = next(touched, None)
            try:
                pixels = None if key is None else self._slide.read_tile(self._level, *key, patch)
            except SlideReadError:
                pixels = self._reread(col, row)
                if pixels is None:
                    return False
            if pixels is None or pixels.shape != patch.shape:
                # Copied before it is spread out: it may lie in the array that is filled.
                part = None if pixels is None else pixels.copy()
                assemble_into(patch, box, self._tile_lattice, lambda c, r: part)
            elif pixels.base is not patch.base:
                patch[...] = pixels
        elif self._bad and not self._bad.isdisjoint(touched):
            pixels = self._reread(col, row)
            if pixels is None:
                return False
            patch[...] = pixels
        elif self._averaging:
            assemble_into(
                patch, self._output_box(col, row), self._output_lattice, self._output_tiles.get
            )
        else:
            assemble_into(patch, box, self._tile_lattice, self._tiles.get)
        return True

    def _encoded(
        self, run: Sequence[_PatchIndex], encode: Callable[[RgbImage], Encoded]
    ) -> Iterator[Encoded | None]:
        """What ``encode`` returns for each patch of a run, in order; None where unreadable."""
        side = self._grid.patch_size_px

        def finish(patches: Sequence[_PatchIndex]) -> list[Encoded | None]:
            patch = self._buffers.acquire(side, side)
            done = [
                encode(patch) if self._fill(patch, col, row) else None for _, col, row in patches
            ]
            self._buffers.release(patch)
            return done

        groups = [run[i : i + _GROUP] for i in range(0, len(run), _GROUP)]
        if self._pool is None:
            for group in groups:
                yield from finish(group)
            return
        # A few groups ahead: enough to keep the threads busy, and no row of patches in memory.
        pending: deque[Future[list[Encoded | None]]] = deque()
        for group in groups:
            pending.append(self._pool.submit(finish, group))
            if len(pending) > 2 * self._threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()

    def extract(
        self,
        index: NDArray[np.integer],
        encode: Callable[[RgbImage], Encoded],
        append: Callable[[Encoded], None],
    ) -> NDArray[np.bool_]:
        """Extract patches in the order given (slide order: row by row).

        Parameters
        ----------
        index : (N, 2) int
            Column and row of each patch in the grid.
        encode : callable
            Given each readable patch, (P, P, 3) uint8, on any thread; the array is used again
            when it returns, so that what it returns must be its own.
        append : callable
            Given what ``encode`` returned, in order, on this thread.

        Returns
        -------
        (N,) bool
            True where the patch was readable. The others touch pixels that cannot be decoded
            and were left out.
        """
        readable = np.ones(len(index), dtype=np.bool_)
        row_now = -1
        for run in self._segments(index):
            if not self._direct:
                if run[0][2] != row_now:
                    # Patches come row by row: what lies above this row is not needed again.
                    row_now = run[0][2]
                    self._evict_above(row_now)
                self._prepare(run)
            for (number, _, _), encoded in zip(run, self._encoded(run, encode), strict=True):
                if encoded is None:
                    readable[number] = False
                else:
                    append(encoded)
            self._tiles.evict_to_budget()
            if self._averaging:
                self._output_tiles.evict_to_budget()
        return readable

    def _prepare(self, run: Sequence[_PatchIndex]) -> None:
        """Load the tiles under a run of patches."""
        if self._averaging:
            self._load_output_tiles([self._output_box(col, row) for _, col, row in run])
        else:
            self._tiles.load(self._tiles_under(run), self._pool)

    def _tiles_under(self, run: Sequence[_PatchIndex]) -> list[Key]:
        """The tiles under patches of one grid row, each once."""
        width = self._tile_lattice.tile_size_px.width
        step, side = self._grid.step_px, self._grid.patch_size_px
        starts = [self._first_x + col * step for _, col, _ in run]
        columns = {c for x in starts for c in range(x // width, -(-(x + side) // width))}
        left = min(starts)
        band = BoxPx(left, self._first_y + run[0][2] * step, max(starts) + side - left, side)
        return [key for key in self._tile_lattice.tiles_of(band) if key[0] in columns]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
