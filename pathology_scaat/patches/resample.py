"""Area averaging onto the output grid, one cell at a time, the same however it is cut.

An output pixel i along an axis covers the level pixels [start + i s, start + (i + 1) s); its
value is the mean of the picture over that interval, level pixels being constant squares. The
weights depend only on the absolute index i, and are summed in one order, so that a pixel has
one value in whatever cell, band or worker it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.block_mean import block_mean
from pathology_scaat.system.compiled import compiled


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """Weights of n output pixels along one axis.

    ``first`` is the first level pixel of the whole stretch, ``count`` how many it needs;
    ``begin`` (n,) int32 is relative to ``first``; ``weights`` (n, k) float32 holds
    the weights of each output pixel, and its rows sum to 1.
    Both are shared by all who ask for the same stretch, and read-only.
    """

    first: int
    count: int
    begin: NDArray[np.int32]
    weights: NDArray[np.float32]


# A row of cells needs the same columns as the row above: made once, they are a quarter of the work.
@lru_cache(maxsize=2048)
def axis_weights(start: float, shrink: float, index: int, n: int) -> AxisWeights:
    """Weights of the output pixels ``index`` to ``index + n`` along one axis.

    Parameters
    ----------
    start : float
        Level position of output pixel 0.
    shrink : float
        Level pixels per output pixel.
    index, n : int
        First output pixel and how many.
    """
    edges = start + np.arange(index, index + n + 1, dtype=np.float64) * shrink
    # Positions within a billionth of a pixel border are on it: else rounding would add a
    # pixel of no weight, and the box to read would grow by it.
    nearest = np.round(edges)
    edges = np.where(np.abs(edges - nearest) < 1e-6, nearest, edges)
    low, high = edges[:-1], edges[1:]
    begin = np.floor(low).astype(np.int64)
    n_weights = int((np.ceil(high).astype(np.int64) - begin).max())
    pixel = begin[:, None] + np.arange(n_weights)[None, :]
    cover = np.minimum(high[:, None], pixel + 1.0) - np.maximum(low[:, None], pixel)
    cover = np.clip(cover, 0.0, None)
    weights = (cover / cover.sum(axis=1, keepdims=True)).astype(np.float32)
    first = int(begin[0])
    # The last pixels may have fewer weights than the widest; their spare weights are zero
    # and are moved inside the stretch that is read.
    count = math.ceil(float(high[-1])) - first
    count = max(count, n_weights)
    spare = begin - first + n_weights - count
    for row in np.flatnonzero(spare > 0):
        shift = int(spare[row])
        begin[row] -= shift
        weights[row] = np.concatenate([np.zeros(shift, np.float32), weights[row][:-shift]])
    relative = (begin - first).astype(np.int32)
    for shared in (relative, weights):
        shared.setflags(write=False)
    return AxisWeights(first, count, relative, weights)


def source_box(columns: AxisWeights, rows: AxisWeights) -> BoxPx:
    """The box of level pixels that a cell is made from."""
    return BoxPx(columns.first, rows.first, columns.count, rows.count)


@compiled(nogil=True)
def _average(
    source: NDArray[np.uint8],
    row_begin: NDArray[np.int32],
    row_weights: NDArray[np.float32],
    col_begin: NDArray[np.int32],
    col_weights: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    width = source.shape[1]
    n_row_weights, n_col_weights = row_weights.shape[1], col_weights.shape[1]
    line = np.empty(width, dtype=np.float32)
    for y in range(out.shape[0]):
        top = row_begin[y]
        for x in range(width):
            line[x] = row_weights[y, 0] * source[top, x]
        for k in range(1, n_row_weights):
            weight = row_weights[y, k]
            if weight != 0:
                for x in range(width):
                    line[x] += weight * source[top + k, x]
        for x in range(out.shape[1] // 3):
            left = col_begin[x] * 3
            red = np.float32(0.5)
            green = np.float32(0.5)
            blue = np.float32(0.5)
            for k in range(n_col_weights):
                weight = col_weights[x, k]
                red += weight * line[left + 3 * k]
                green += weight * line[left + 3 * k + 1]
                blue += weight * line[left + 3 * k + 2]
            out[y, 3 * x] = np.uint8(red)
            out[y, 3 * x + 1] = np.uint8(green)
            out[y, 3 * x + 2] = np.uint8(blue)


def _whole_factor(columns: AxisWeights, rows: AxisWeights) -> int | None:
    """The factor where every output pixel is the plain mean of whole level pixels, else None.

    Then sums of whole numbers give what the weights give, at several times the speed.
    """
    factor = columns.weights.shape[1]
    for axis in (columns, rows):
        n = len(axis.begin)
        even = axis.weights.shape[1] == factor and axis.count == n * factor
        if not (even and (axis.weights == np.float32(1 / factor)).all()):
            return None
        if not np.array_equal(axis.begin, np.arange(n) * factor):
            return None
    return int(factor)


def average(
    source: RgbImage, columns: AxisWeights, rows: AxisWeights, out: RgbImage | None = None
) -> RgbImage:
    """Area-average a box of level pixels, rounded half up.

    Parameters
    ----------
    source : (rows.count, columns.count, 3) uint8
        Level pixels of :func:`source_box`.
    columns, rows : AxisWeights
        Weights along x and y.
    out : (n_rows, n_columns, 3) uint8, optional
        Where to put them; C-contiguous.

    Returns
    -------
    (n_rows, n_columns, 3) uint8
    """
    height, width = len(rows.begin), len(columns.begin)
    if out is None:
        out = np.empty((height, width, 3), dtype=np.uint8)
    flat = np.ascontiguousarray(source).reshape(source.shape[0], -1)
    factor = _whole_factor(columns, rows)
    if factor is not None:
        return block_mean(flat.reshape(source.shape), factor, out)
    lines = out.reshape(height, width * 3)
    _average(flat, rows.begin, rows.weights, columns.begin, columns.weights, lines)
    return out
