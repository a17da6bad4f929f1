"""Patches as tiles: a box on the slide and a few numbers each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.stitching.blend import saliency_factor
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.source import SaliencySource
from pathology_scaat.training.bags.patch_meaning import least_said

BATCH_BYTES = 8 << 20


UNLIKE_MEASUREMENT = "Unlike training (percentile)"
LITTLE_MEASUREMENT = "Contributes little"
"""Measurement, 1, of the tiles that hardly move what a model of whole slides says of the slide."""


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
    more : tuple of (str, (N,) float64)
        Further measurements by name; NaN where a tile has none.
    """

    edges_px: NDArray[np.int32]
    patch_px: NDArray[np.int32]
    probability: NDArray[np.float64]
    saliency_mean: NDArray[np.float64]
    saliency_max: NDArray[np.float64]
    target_index: int
    more: tuple[tuple[str, NDArray[np.float64]], ...] = ()

    def __len__(self) -> int:
        return len(self.edges_px)

    @property
    def unlike(self) -> NDArray[np.bool_]:
        """Which tiles are unlike the training data, (N,); none where that is not known."""
        known = dict(self.more).get(UNLIKE_MEASUREMENT)
        if known is None:
            return np.zeros(len(self), dtype=bool)
        with np.errstate(invalid="ignore"):
            return np.asarray(known >= UNLIKE_PERCENTILE, dtype=bool)

    @property
    def little(self) -> NDArray[np.bool_]:
        """Which tiles contribute little to what is said of the slide, (N,); none where a model
        speaks of patches."""
        known = dict(self.more).get(LITTLE_MEASUREMENT)
        return np.zeros(len(self), dtype=bool) if known is None else known == 1.0

    def top(self, count: int) -> NDArray[np.int64]:
        """Rows of the ``count`` tiles of highest target probability, then saliency: (n,) int64.

        In slide order.
        """
        if count >= len(self):
            return np.arange(len(self))
        keys = (-self.saliency_mean, -self.probability[:, self.target_index])
        return np.sort(np.lexsort(keys)[:count])


def _patch_edges(source: SaliencySource) -> NDArray[np.int32]:
    """Edges of whole patches, each rounded once from its exact position."""
    grid = source.meta.grid
    out = np.empty((len(source), 4), np.int32)
    origin = grid.exact_origins_px(source.grid_index)
    out[:, :2] = np.floor(origin + 0.5)
    out[:, 2:] = np.floor(origin + grid.patch_size_level0_px + 0.5)
    return out


def _cell_edges(source: SaliencySource, patch: NDArray[np.int32]) -> NDArray[np.int32]:
    """Edges of cells of one step in the middle of patches, the outermost reaching further.

    A right edge is computed as the left edge of the next cell, so that the two are the same
    whatever the rounding. Where a patch has no neighbour, its cell goes on to the patch's own
    edge (or half-way to the next cell of the row or column), so that cells cover what patches
    and map cover; at inner corners of the tissue two cells then lie on each other by a quarter
    of a patch at most.
    """
    grid = source.meta.grid
    inset = (grid.patch_size_level0_px - grid.step_level0_px) / 2
    out = np.empty((len(source), 4), np.int32)
    out[:, :2] = np.floor(grid.exact_origins_px(source.grid_index) + inset + 0.5)
    out[:, 2:] = np.floor(grid.exact_origins_px(source.grid_index + 1) + inset + 0.5)
    for axis in (0, 1):
        _reach_out(out, patch, source.grid_index, axis)
    return out


def _reach_out(
    cells: NDArray[np.int32],
    patch: NDArray[np.int32],
    grid_index: NDArray[np.integer],
    axis: int,
) -> None:
    """Move edges along one axis outwards where the next cell of the line is not there."""
    if not len(cells):
        return
    low, high = axis, axis + 2
    order = np.lexsort((grid_index[:, axis], grid_index[:, 1 - axis]))
    line, position = grid_index[order, 1 - axis], grid_index[order, axis]
    same_line = line[1:] == line[:-1]
    gap = same_line & (position[1:] > position[:-1] + 1)
    before, after = order[:-1], order[1:]
    middle = (cells[before, high].astype(np.int64) + cells[after, low]) // 2
    first = np.concatenate([[True], ~same_line])
    last = np.concatenate([~same_line, [True]])
    cells[order[last], high] = patch[order[last], high]
    cells[order[first], low] = patch[order[first], low]
    cells[before[gap], high] = np.minimum(patch[before[gap], high], middle[gap])
    cells[after[gap], low] = np.maximum(patch[after[gap], low], middle[gap])


def tile_table(source: SaliencySource, config: StitchConfig, shape: str = "cell") -> TileTable:
    """Boxes and measurements of all patches, reading the saliency once in bounded batches."""
    grid = source.meta.grid
    patch = _patch_edges(source)
    cells = shape == "cell" and grid.step_px < grid.patch_size_px
    edges = _cell_edges(source, patch) if cells else patch
    factor = saliency_factor(source.target_probability, config)
    mean, top = np.zeros(len(source)), np.zeros(len(source))
    batch = max(BATCH_BYTES // (source.side**2 * 4), 1)
    for start in range(0, len(source), batch):
        values = source.read(start, min(start + batch, len(source)))
        stop = start + len(values)
        mean[start:stop] = values.mean(axis=(1, 2), dtype=np.float64) * factor[start:stop]
        top[start:stop] = values.max(axis=(1, 2)) * factor[start:stop]
    unlike = source.unlike
    more: list[tuple[str, NDArray[np.float64]]] = []
    if unlike is not None:
        more.append((UNLIKE_MEASUREMENT, np.asarray(unlike, np.float64)))
    if source.of_slides:
        little = source.probability.max(axis=1) < least_said(source.probability.shape[1])
        more.append((LITTLE_MEASUREMENT, np.where(little, 1.0, np.nan)))
    return TileTable(
        edges, patch, source.probability, mean, top, source.meta.target_index, tuple(more)
    )
