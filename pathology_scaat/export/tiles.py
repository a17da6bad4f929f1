"""Patches as tiles: a box on the slide and a few numbers each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.stitching.blend import saliency_factor
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.source import SaliencySource

BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class TileTable:
    """All patches of a slide in slide order.

    Attributes
    ----------
    edges_px : (N, 4) int32
        Level-0 left, top, right, bottom of the box that is drawn.
    patch_px : (N, 4) int32
        The same of the whole patch.
    probability : (N, K) float64
    saliency_mean, saliency_max : (N,) float64
        Over the patch, weighted as the map is.
    unlike : (N,) float64 or None
        How unlike the training patches, percentile; None where it is not known.
    """

    edges_px: NDArray[np.int32]
    patch_px: NDArray[np.int32]
    probability: NDArray[np.float64]
    saliency_mean: NDArray[np.float64]
    saliency_max: NDArray[np.float64]
    target_index: int
    unlike: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.edges_px)

    def top(self, count: int) -> NDArray[np.int64]:
        """The ``count`` tiles of highest target probability (then saliency), in slide order."""
        if count >= len(self):
            return np.arange(len(self))
        keys = (-self.saliency_mean, -self.probability[:, self.target_index])
        return np.sort(np.lexsort(keys)[:count])


def _patch_edges(source: SaliencySource) -> NDArray[np.int32]:
    """Edges of whole patches, each rounded once from its exact place."""
    grid = source.meta.grid
    out = np.empty((len(source), 4), np.int32)
    origin = grid.exact_origins_px(source.grid_index)
    out[:, :2] = np.floor(origin + 0.5)
    out[:, 2:] = np.floor(origin + grid.patch_size_level0_px + 0.5)
    return out


def _cell_edges(source: SaliencySource) -> NDArray[np.int32]:
    """Edges of cells of one step in the middle of patches.

    A right edge is computed as the left edge of the next cell, so that the two are the same
    whatever the rounding.
    """
    grid = source.meta.grid
    inset = (grid.patch_size_level0_px - grid.step_level0_px) / 2
    out = np.empty((len(source), 4), np.int32)
    out[:, :2] = np.floor(grid.exact_origins_px(source.grid_index) + inset + 0.5)
    out[:, 2:] = np.floor(grid.exact_origins_px(source.grid_index + 1) + inset + 0.5)
    return out


def tile_table(source: SaliencySource, config: StitchConfig, shape: str = "cell") -> TileTable:
    """Boxes and measurements of all patches, reading the saliency once in bounded batches."""
    grid = source.meta.grid
    patch = _patch_edges(source)
    cells = shape == "cell" and grid.step_px < grid.patch_size_px
    edges = _cell_edges(source) if cells else patch
    factor = saliency_factor(source.target_probability, config)
    mean, top = np.zeros(len(source)), np.zeros(len(source))
    batch = max(BATCH_BYTES // (source.side**2 * 4), 1)
    for start in range(0, len(source), batch):
        values = source.read(start, min(start + batch, len(source)))
        stop = start + len(values)
        mean[start:stop] = values.mean(axis=(1, 2), dtype=np.float64) * factor[start:stop]
        top[start:stop] = values.max(axis=(1, 2)) * factor[start:stop]
    return TileTable(
        edges, patch, source.probability, mean, top, source.meta.target_index, source.unlike
    )
