"""Quantiles of a map without holding the map: mergeable, and the same for any block size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.stitching.schema import ChannelStatistics

N_BINS = 1 << 15
"""Sign-less upper 16 bits of a float32: 8 of exponent, 7 of mantissa."""


class Histogram:
    """Counts of non-negative float32 by their upper 16 bits, which sort as the numbers do."""

    def __init__(self) -> None:
        self.counts = np.zeros(N_BINS, np.int64)
        self.maximum = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values of any shape; what is not finite is left out, negatives count as zero."""
        finite = np.isfinite(values)
        held = values if finite.all() else values[finite]
        if held.size == 0:
            return
        if held.min() <= 0:
            held = np.maximum(held, np.float32(0))
        bins = np.ascontiguousarray(held).reshape(-1).view(np.uint32) >> np.uint32(16)
        self.counts += np.bincount(bins, minlength=N_BINS)[:N_BINS]
        self.maximum = max(self.maximum, float(held.max()))

    def merge(self, other: Histogram) -> None:
        self.counts += other.counts
        self.maximum = max(self.maximum, other.maximum)

    def quantile(self, share: float) -> float:
        """Smallest value that at least ``share`` of the values do not exceed (to 1/128)."""
        total = int(self.counts.sum())
        if total == 0:
            return 0.0
        rank = max(int(np.ceil(share * total)), 1)
        found = int(np.searchsorted(np.cumsum(self.counts), rank))
        upper_edge = np.array([(found << 16) | 0xFFFF], np.uint32).view(np.float32)[0]
        return min(float(upper_edge), self.maximum)

    def summary(self) -> ChannelStatistics:
        return ChannelStatistics(
            self.maximum, self.quantile(0.5), self.quantile(0.99), self.quantile(0.995)
        )
