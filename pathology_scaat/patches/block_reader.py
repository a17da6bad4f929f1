"""Overlapping patches, put together from the blocks that they share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.patches.shard_reader import LayoutError, ShardReader

_GROUP = 32
"""Patches that a thread reads at a time; a block that several of them share is decoded once."""


class BlockReader:
    """Reads patches of a store of blocks, by several threads.

    Parameters
    ----------
    blocks : ShardReader
        Reads the array ``blocks``.
    patch_blocks : (N, k * k) int32
        Blocks of each patch, from left to right and row by row.
    patch_size_px : int

    Raises
    ------
    LayoutError
        If these do not belong together.
    """

    array = "blocks"

    def __init__(
        self, blocks: ShardReader, patch_blocks: NDArray[np.integer], patch_size_px: int
    ) -> None:
        self._blocks = blocks
        self._side = blocks.side_px
        self._per_side = patch_size_px // self._side
        if patch_blocks.ndim != 2 or patch_blocks.shape[1] != self._per_side**2:
            raise LayoutError("patch_blocks")
        if patch_blocks.size and not (
            patch_blocks.min() >= 0 and patch_blocks.max() < blocks.length
        ):
            raise LayoutError("patch_blocks")
        self._patch_blocks = patch_blocks
        self.length = len(patch_blocks)
        self._own = threading.local()

    def read(
        self, wanted: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]
    ) -> list[Future[None]]:
        """Begin to read patches ``wanted`` into ``out[rows]``; done when all futures are.

        They raise OSError or LayoutError.

        Parameters
        ----------
        wanted : (n,) int64
            Numbers of the patches, 0 to N - 1.
        out : (m, P, P, 3) uint8
        rows : (n,) int64
            Where each goes in ``out``.
        """
        # In the order of their first block, so that a thread's patches share blocks and shards.
        order = np.argsort(self._patch_blocks[wanted, 0], kind="stable")
        return [
            self._blocks.submit(self._read, wanted[mine], out, rows[mine])
            for mine in (order[i : i + _GROUP] for i in range(0, len(order), _GROUP))
        ]

    def _read(
        self, wanted: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]
    ) -> None:
        numbers = self._patch_blocks[wanted].reshape(-1)
        order = np.argsort(numbers, kind="stable")
        blocks, first = np.unique(numbers[order], return_index=True)
        uses = np.split(order, first[1:])
        self._blocks.decode(blocks.tolist(), self._targets(uses, out, rows))

    def _targets(
        self, uses: list[NDArray[np.intp]], out: NDArray[np.uint8], rows: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint8]]:
        """A buffer to decode each block into; copied to its patches when the next is asked for.

        The consumer asks once more after the last block, which copies that one.
        """
        side, per_side = self._side, self._per_side
        if not hasattr(self._own, "block"):
            self._own.block = np.empty((side, side, 3), np.uint8)
        block: NDArray[np.uint8] = self._own.block
        for positions in uses:
            yield block.reshape(-1)
            for position in positions.tolist():
                patch, inside = divmod(position, per_side**2)
                y, x = (n * side for n in divmod(inside, per_side))
                out[rows[patch], y : y + side, x : x + side] = block
