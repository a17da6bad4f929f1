"""Memory that is used again, and cells that are made once and kept while they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.tiles import tile_buffer

Key = tuple[int, int]
Made = tuple[RgbImage | None, RgbImage | None]
"""A cell's pixels, and the buffer that they lie in where it is one of :class:`Buffers`."""

_GRAIN = 1 << 16


class Buffers:
    """Memory that is used again: fresh pages cost nearly as much as decoding into them.

    Safe from several threads.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        self._flat: dict[int, NDArray[np.uint8]] = {}  # by the memory they are a view of

    def take(self, height: int, width: int) -> RgbImage:
        """An array (height, width, 3) of whatever was in it, to be given back."""
        size = height * width * 3
        grains = math.ceil(size / _GRAIN)
        try:
            flat = self._free[grains].pop()
        except (KeyError, IndexError):
            flat = tile_buffer(grains * _GRAIN)
            assert flat.base is not None
            self._flat[id(flat.base)] = flat
        array: RgbImage = flat[:size].reshape(height, width, 3)
        return array

    def give(self, array: RgbImage) -> None:
        """Give back what was taken; nobody may look at it any more."""
        flat = self._flat[id(array.base)]
        self._free.setdefault(flat.size // _GRAIN, []).append(flat)


class Bank:
    """Cells that were made and may be needed again."""

    def __init__(self, make: Callable[[Key], Made], keep_bytes: int, buffers: Buffers) -> None:
        self._make = make
        self._keep_bytes = keep_bytes
        self._buffers = buffers
        self._bytes = 0
        self._cells: dict[Key, Made] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._cells

    def get(self, col: int, row: int) -> RgbImage | None:
        return self._cells[(col, row)][0]

    def need(self, keys: Iterable[Key], pool: ThreadPoolExecutor | None) -> None:
        """Make those that are not there."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._cells]
        made = pool.map(self._make, missing) if pool else map(self._make, missing)
        for key, cell in zip(missing, made, strict=True):
            self._cells[key] = cell
            self._bytes += _size(cell)

    def _drop(self, key: Key) -> None:
        cell = self._cells.pop(key)
        self._bytes -= _size(cell)
        if cell[1] is not None:
            self._buffers.give(cell[1])

    def retire(self, row: int) -> None:
        """Let go of all cells above a row of the lattice."""
        for key in [k for k in self._cells if k[1] < row]:
            self._drop(key)

    def trim(self) -> None:
        """Keep to the budget; the newest go first, since the oldest are needed soonest."""
        while self._bytes > self._keep_bytes and self._cells:
            self._drop(next(reversed(self._cells)))


def _size(cell: Made) -> int:
    pixels, buffer = cell
    kept = buffer if buffer is not None else pixels
    return 0 if kept is None else kept.nbytes
