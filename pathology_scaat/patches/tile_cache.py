"""A cache of decoded tiles, and a pool of memory buffers that are reused for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.tiles import tile_buffer

Key = tuple[int, int]
"""Column and row of a tile in its lattice."""
CacheEntry = tuple[RgbImage | None, RgbImage | None]
"""Pixels of a tile (None: unreadable or empty), and the pooled buffer that holds them, if any."""

_GRAIN_BYTES = 1 << 16
"""Buffers are pooled in multiples of this size, so that nearly equal sizes share memory."""


class BufferPool:
    """Reusable memory: touching fresh pages costs nearly as much as decoding into them.

    Safe from several threads: taking and giving back are single operations on built-in
    containers, which the interpreter runs atomically.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        self._flat: dict[int, NDArray[np.uint8]] = {}  # by the id of the memory they view

    def acquire(self, height: int, width: int) -> RgbImage:
        """An array (height, width, 3) with undefined contents; return it with :meth:`release`."""
        size = height * width * 3
        grains = math.ceil(size / _GRAIN_BYTES)
        try:
            flat = self._free[grains].pop()
        except (KeyError, IndexError):
            flat = tile_buffer(grains * _GRAIN_BYTES)
            assert flat.base is not None  # noqa: S101  (for the type checker)
            self._flat[id(flat.base)] = flat
        array: RgbImage = flat[:size].reshape(height, width, 3)
        return array

    def release(self, array: RgbImage) -> None:
        """Return an acquired array; it must not be used afterwards."""
        flat = self._flat[id(array.base)]
        self._free.setdefault(flat.size // _GRAIN_BYTES, []).append(flat)


class TileCache:
    """Tiles by column and row, produced on demand and kept within a budget of bytes.

    Parameters
    ----------
    produce : callable
        Makes the tile of a key; may be called from several threads at once.
    max_bytes : int
        What :meth:`evict_to_budget` keeps at most.
    buffers : BufferPool
        Where the buffers of evicted tiles are returned.
    """

    def __init__(
        self, produce: Callable[[Key], CacheEntry], max_bytes: int, buffers: BufferPool
    ) -> None:
        self._produce = produce
        self._max_bytes = max_bytes
        self._buffers = buffers
        self._bytes = 0
        self._entries: dict[Key, CacheEntry] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, col: int, row: int) -> RgbImage | None:
        """Pixels of a tile that was loaded; None where it is empty or unreadable."""
        return self._entries[(col, row)][0]

    def load(self, keys: Iterable[Key], pool: ThreadPoolExecutor | None) -> None:
        """Produce the tiles that are not in the cache, on the threads of ``pool`` if given."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._entries]
        produced = pool.map(self._produce, missing) if pool else map(self._produce, missing)
        for key, entry in zip(missing, produced, strict=True):
            self._entries[key] = entry
            self._bytes += _size_bytes(entry)

    def _evict(self, key: Key) -> None:
        entry = self._entries.pop(key)
        self._bytes -= _size_bytes(entry)
        if entry[1] is not None:
            self._buffers.release(entry[1])

    def evict_above(self, row: int) -> None:
        """Evict all tiles above a row of the lattice."""
        for key in [k for k in self._entries if k[1] < row]:
            self._evict(key)

    def evict_to_budget(self) -> None:
        """Evict the newest tiles until the budget holds; the oldest are needed soonest."""
        while self._bytes > self._max_bytes and self._entries:
            self._evict(next(reversed(self._entries)))


def _size_bytes(entry: CacheEntry) -> int:
    pixels, buffer = entry
    held = buffer if buffer is not None else pixels
    return 0 if held is None else held.nbytes
