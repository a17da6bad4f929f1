"""Placing patch pixels on map pixels by exact area overlap, one axis at a time.

Everything here is element-wise: no matrix product whose rounding depends on how many patches
are handled at once, so that a map never depends on how the work was cut up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SNAP_PX = 1e-6
"""Offsets this near to a whole map pixel are that pixel: rounding noise makes no slivers."""


def window_1d(side: int, kind: str) -> NDArray[np.float64]:
    """Weight of each of ``side`` patch pixels along one axis, (side,) float64 in (0, 1].

    ``hann`` is sin²(π (j + ½) / side), sampled at pixel centres so that no weight is zero;
    at half overlap neighbouring windows add up to one. ``flat`` is one everywhere.
    """
    if kind == "flat":
        return np.ones(side)
    return np.asarray(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2)


@dataclass(frozen=True)
class AxisWeights:
    """How one patch axis lands on map pixels.

    Attributes
    ----------
    start_px : int
        First map pixel touched.
    index : (M, T) int64
        Patch pixels that make each of M map pixels.
    weight : (M, T) float64
        Length of overlap in map pixels; zero for unused weights.
    covered : (M,) bool
        Whether the map pixel's centre lies in the patch.
    """

    start_px: int
    index: NDArray[np.int64]
    weight: NDArray[np.float64]
    covered: NDArray[np.bool_]

    @property
    def n_px(self) -> int:
        return int(self.index.shape[0])

    def apply(self, values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Resample one axis: weighted sums along ``axis``, whose length becomes M.

        ``values`` may be of any shape in which this axis is as long as the patch's side.
        """
        shape = [1] * values.ndim
        shape[axis] = self.n_px
        out = np.take(values, self.index[:, 0], axis=axis) * self.weight[:, 0].reshape(shape)
        for k in range(1, self.index.shape[1]):
            taken = np.take(values, self.index[:, k], axis=axis)
            out += taken * self.weight[:, k].reshape(shape)
        return out

    @cached_property
    def is_identity(self) -> bool:
        # Of a map with two pixels for one of the patch the weights are 1 as well.
        index = self.index
        same = index.shape[1] == 1 and np.array_equal(index[:, 0], np.arange(len(index)))
        return bool(same and np.all(self.weight == 1.0))


def axis_weights(offset_px: float, ratio: float, side: int) -> AxisWeights:
    """Overlap of a patch axis with map pixels.

    Parameters
    ----------
    offset_px : float
        Position of the patch's first edge in map pixels.
    ratio : float
        Map pixels per patch pixel (1: same size; below 1: the map is coarser).
    side : int
        Patch pixels along the axis.
    """
    near = round(offset_px)
    if abs(offset_px - near) < SNAP_PX:
        offset_px = float(near)
    end_px = offset_px + side * ratio
    if abs(end_px - round(end_px)) < SNAP_PX:
        end_px = float(round(end_px))
        ratio = (end_px - offset_px) / side
    start = math.floor(offset_px)
    count = max(math.ceil(end_px) - start, 1)
    cells = start + np.arange(count, dtype=np.float64)
    covered = (cells + 0.5 >= offset_px) & (cells + 0.5 < end_px)
    if ratio == 1.0 and offset_px == start:
        steps = np.arange(side, dtype=np.int64)[:, None]
        return AxisWeights(start, steps, np.ones((side, 1)), covered)
    low = np.clip((cells - offset_px) / ratio, 0, side)
    high = np.clip((cells + 1 - offset_px) / ratio, 0, side)
    first = np.minimum(np.floor(low).astype(np.int64), side - 1)
    n_weights = int(np.max(np.ceil(high).astype(np.int64) - first))
    index = first[:, None] + np.arange(max(n_weights, 1), dtype=np.int64)
    overlap = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
    weight = np.clip(overlap, 0, None) * ratio
    return AxisWeights(start, np.minimum(index, side - 1), weight, covered)
