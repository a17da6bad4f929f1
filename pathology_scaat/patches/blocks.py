"""Overlapping patches stored without repeating pixels: as the blocks that they share.

With half overlap each pixel belongs to four patches, so that a store of whole patches is four
times as large as the tissue. Where patches overlap, the store holds square *blocks* instead, each
once, whose side divides the patch size and the step of the grid, and for every patch the numbers
of its blocks. With half overlap a block is a quarter of a patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.geometry import PatchGrid

MAX_BLOCKS_PER_SIDE = 4
"""Beyond this many blocks along a patch's side, the many small reads cost more than they save."""


def block_side_px(patch_size_px: int, step_px: int) -> int | None:
    """Side of the blocks of a grid in output pixels; None where patches are stored whole.

    Patches are stored whole where they do not overlap, or where the largest block that divides
    both patch and step is less than a quarter of the patch's side.
    """
    if step_px >= patch_size_px:
        return None
    side = math.gcd(patch_size_px, step_px)
    return side if patch_size_px // side <= MAX_BLOCKS_PER_SIDE else None


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """Which blocks some patches consist of.

    Attributes
    ----------
    grid : PatchGrid
        The blocks as a grid of their own, without overlap.
    index : (M, 2) int32
        Column and row of each block in that grid, row by row.
    patch_blocks : (N, k * k) int32
        For each patch its blocks as positions in ``index``, from left to right and row by row;
        ``k`` is the patch size in blocks.
    """

    grid: PatchGrid
    index: NDArray[np.int32]
    patch_blocks: NDArray[np.int32]

    def where(self, readable: NDArray[np.bool_]) -> NDArray[np.int32]:
        """``patch_blocks`` by position among the readable blocks; -1 for unreadable ones.

        ``readable`` is (M,), one truth a block; the result is (N, k * k) int32.
        """
        position = np.where(readable, np.cumsum(readable) - 1, -1).astype(np.int32)
        moved: NDArray[np.int32] = position[self.patch_blocks]
        return moved


def plan_blocks(grid: PatchGrid, grid_index: NDArray[np.integer], side_px: int) -> BlockPlan:
    """The blocks under some patches of a grid, each once.

    Parameters
    ----------
    grid : PatchGrid
        The patches' grid.
    grid_index : (N, 2) int
        Column and row of the patches.
    side_px : int
        Side of a block (:func:`block_side_px`), output pixels.
    """
    per_patch, per_step = grid.patch_size_px // side_px, grid.step_px // side_px
    block_grid = replace(
        grid,
        patch_size_px=side_px,
        step_px=side_px,
        n_cols=(grid.n_cols - 1) * per_step + per_patch,
        n_rows=(grid.n_rows - 1) * per_step + per_patch,
    )
    inside = np.arange(per_patch)
    first = np.asarray(grid_index, dtype=np.int64).reshape(-1, 2) * per_step
    cols = first[:, 0, None, None] + inside[None, None, :]
    rows = first[:, 1, None, None] + inside[None, :, None]
    # One number per block, increasing from left to right and row by row.
    number = (rows * block_grid.n_cols + cols).reshape(len(first), per_patch**2)
    used, position = np.unique(number, return_inverse=True)
    index = np.stack([used % block_grid.n_cols, used // block_grid.n_cols], axis=1)
    return BlockPlan(
        block_grid, index.astype(np.int32), position.reshape(number.shape).astype(np.int32)
    )
