"""Patches cut from cells, each cell made once.

A *cell* is a native tile of the level, or, where the slide is resampled, a square of output
pixels. Patches are cut in slide order; a cell is made when the first patch needs it and let
go when the last has had it, so that neither overlap nor an off-grid start costs a second
decode, cells that no wanted patch touches are never decoded, and memory is that of the rows
of cells under one row of patches. Where even those are too many (huge tiles on a huge slide)
a byte budget holds, and some cells are made again. The pixels do not depend on any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, PatchGrid, ReadPlan, SizePx
from pathology_scaat.patches.resample import average, axis_weights, source_box
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.tiles import TiledSlide, TileLattice, assemble, assemble_into

Key = tuple[int, int]


@dataclass(frozen=True)
class CutterLimits:
    """How much is held at once; decides memory and speed, never the pixels.

    ``keep_bytes`` of cells are kept for a later row of patches, ``segment_bytes`` of level
    pixels are worked on at once, and a cell is made from at most about ``cell_source_px``
    level pixels a side.
    """

    keep_bytes: int = 192 << 20
    segment_bytes: int = 64 << 20
    cell_source_px: int = 1536


class Bank:
    """Cells that were made and may be needed again."""

    def __init__(self, make: Callable[[Key], RgbImage | None], keep_bytes: int) -> None:
        self._make = make
        self._keep_bytes = keep_bytes
        self._bytes = 0
        self._cells: dict[Key, RgbImage | None] = {}
        self.n_made = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._cells

    def get(self, col: int, row: int) -> RgbImage | None:
        return self._cells[(col, row)]

    def need(self, keys: Iterable[Key], pool: ThreadPoolExecutor | None) -> None:
        """Make those that are not there."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._cells]
        made = pool.map(self._make, missing) if pool else map(self._make, missing)
        for key, cell in zip(missing, made, strict=True):
            self._cells[key] = cell
            self._bytes += 0 if cell is None else cell.nbytes
        self.n_made += len(missing)

    def _drop(self, key: Key) -> None:
        cell = self._cells.pop(key)
        self._bytes -= 0 if cell is None else cell.nbytes

    def retire(self, row: int) -> None:
        """Let go of all cells above a row of the lattice."""
        for key in [k for k in self._cells if k[1] < row]:
            self._drop(key)

    def trim(self) -> None:
        """Keep to the budget; the newest go first, since the oldest are needed soonest."""
        while self._bytes > self._keep_bytes and self._cells:
            self._drop(next(reversed(self._cells)))


def cell_side_px(grid: PatchGrid, shrink: float, source_px: int) -> int:
    """Side of a cell in output pixels: the step where that is neither tiny nor huge."""
    largest = max(1, int(source_px / shrink))
    side = grid.step_px
    while side < 64 and side * 2 <= largest:
        side *= 2
    return side if side <= largest else -(-side // -(-side // largest))


class PatchCutter:
    """Cuts the patches of a grid out of one slide.

    Parameters
    ----------
    slide : TiledSlide
        Serves the tiles of the level that the plan reads.
    plan, grid : ReadPlan, PatchGrid
        Which level, at which factor, and where the patches lie.
    threads : int
        How many threads decode and average; the result is the same.
    limits : CutterLimits, optional
        How much is held at once; the result is the same.
    """

    def __init__(
        self,
        slide: TiledSlide,
        plan: ReadPlan,
        grid: PatchGrid,
        *,
        threads: int = 1,
        limits: CutterLimits | None = None,
    ) -> None:
        self._slide, self._level, self._grid = slide, plan.level, grid
        self._limits = limits or CutterLimits()
        self._shrink = plan.shrink
        self._start_x = grid.anchor_x_px / plan.level_downsample
        self._start_y = grid.anchor_y_px / plan.level_downsample
        self._tile_lattice = slide.lattice(plan.level)
        self._tiles = Bank(self._read_tile, self._limits.keep_bytes)
        self._bad: set[Key] = set()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._averaging = plan.shrink != 1.0
        if self._averaging:
            side = cell_side_px(grid, plan.shrink, self._limits.cell_source_px)
            size = SizePx(
                (grid.n_cols - 1) * grid.step_px + grid.patch_size_px,
                (grid.n_rows - 1) * grid.step_px + grid.patch_size_px,
            )
            self._cell_lattice = TileLattice(size, SizePx(side, side))
            self._cells = Bank(self._average_cell, self._limits.keep_bytes)

    @property
    def n_decoded(self) -> int:
        """How many native tiles were decoded so far, counted each time."""
        return self._tiles.n_made

    def _read_tile(self, key: Key) -> RgbImage | None:
        try:
            return self._slide.read_tile(self._level, *key)
        except SlideReadError:
            self._bad.add(key)
            return None

    def _axes_box(self, box: BoxPx) -> BoxPx:
        """Level pixels that a box of output pixels is made from."""
        columns = axis_weights(self._start_x, self._shrink, box.x, box.width)
        rows = axis_weights(self._start_y, self._shrink, box.y, box.height)
        return source_box(columns, rows)

    def _average_cell(self, key: Key) -> RgbImage | None:
        box = self._cell_lattice.box(*key)
        columns = axis_weights(self._start_x, self._shrink, box.x, box.width)
        rows = axis_weights(self._start_y, self._shrink, box.y, box.height)
        needed = source_box(columns, rows)
        if all(self._tiles.get(*k) is None for k in self._tile_lattice.tiles_of(needed)):
            return None
        return average(assemble(needed, self._tile_lattice, self._tiles.get), columns, rows)

    def _output_box(self, col: int, row: int) -> BoxPx:
        step, side = self._grid.step_px, self._grid.patch_size_px
        return BoxPx(col * step, row * step, side, side)

    def _level_box(self, col: int, row: int) -> BoxPx:
        box = self._output_box(col, row)
        if self._averaging:
            return self._axes_box(box)
        return box.shifted(round(self._start_x), round(self._start_y))

    def _segments(self, index: NDArray[np.integer]) -> Iterator[list[tuple[int, int, int]]]:
        """Runs of (number, column, row) of one grid row that are worked on at once."""
        side = self._grid.patch_size_px * max(self._shrink, 1.0)
        most = max(1, int(self._limits.segment_bytes / (side * side * 3)))
        run: list[tuple[int, int, int]] = []
        for number, (col, row) in enumerate(index.tolist()):
            if run and (run[-1][2] != row or len(run) >= most):
                yield run
                run = []
            run.append((number, col, row))
        if run:
            yield run

    def _retire_above(self, row: int) -> None:
        """Let go of everything that no patch from this grid row on touches."""
        top = self._output_box(0, row).y
        if self._averaging:
            self._cells.retire(top // self._cell_lattice.tile_size_px.height)
            cell_top = top - top % self._cell_lattice.tile_size_px.height
            level_top = self._axes_box(BoxPx(0, cell_top, 1, 1)).y
        else:
            level_top = top + round(self._start_y)
        self._tiles.retire(level_top // self._tile_lattice.tile_size_px.height)

    def _make_cells(self, boxes: Sequence[BoxPx]) -> None:
        """Make the averaged cells under some output boxes, a bounded number at a time."""
        lattice = self._cell_lattice
        wanted = dict.fromkeys(key for box in boxes for key in lattice.tiles_of(box))
        missing = sorted(
            (key for key in wanted if key not in self._cells), key=lambda k: (k[1], k[0])
        )
        side = lattice.tile_size_px.width * max(self._shrink, 1.0)
        most = max(1, int(self._limits.segment_bytes / (side * side * 3)))
        for begin in range(0, len(missing), most):
            part = missing[begin : begin + most]
            sources = [self._axes_box(lattice.box(*key)) for key in part]
            tiles = (k for box in sources for k in self._tile_lattice.tiles_of(box))
            self._tiles.need(tiles, self._pool)
            self._cells.need(part, self._pool)
            self._tiles.trim()

    def cut(
        self, index: NDArray[np.integer], slot: Callable[[], RgbImage], filled: Callable[[], None]
    ) -> NDArray[np.bool_]:
        """Cut patches in the order given (slide order: row by row).

        Parameters
        ----------
        index : (N, 2) int
            Column and row of each patch in the grid.
        slot : callable
            Gives the (P, P, 3) uint8 array that the next readable patch is put into.
        filled : callable
            Called when that array is filled.

        Returns
        -------
        (N,) bool
            True where the patch was readable. The others touch a tile that cannot be
            decoded and were left out.
        """
        readable = np.ones(len(index), dtype=np.bool_)
        row_now = -1
        for run in self._segments(index):
            if run[0][2] != row_now:
                row_now = run[0][2]
                self._retire_above(row_now)
            outputs = [self._output_box(col, row) for _, col, row in run]
            if self._averaging:
                self._make_cells(outputs)
                boxes, lattice, bank = outputs, self._cell_lattice, self._cells
            else:
                boxes = [self._level_box(col, row) for _, col, row in run]
                lattice, bank = self._tile_lattice, self._tiles
                bank.need((k for box in boxes for k in lattice.tiles_of(box)), self._pool)
            for (number, col, row), box in zip(run, boxes, strict=True):
                if self._bad and not self._bad.isdisjoint(
                    self._tile_lattice.tiles_of(self._level_box(col, row))
                ):
                    readable[number] = False
                    continue
                assemble_into(slot(), box, lattice, bank.get)
                filled()
            bank.trim()
        return readable

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
