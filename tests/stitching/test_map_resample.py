"""Area overlap along an axis: nothing lost, nothing moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.stitching.resample import axis_weights, window_1d
from pathology_scaat.stitching.statistics import Histogram

OFFSETS = st.floats(-300, 300)
RATIOS = st.floats(0.05, 3)
SIDES = st.integers(1, 70)


@given(OFFSETS, RATIOS, SIDES, st.integers(0, 2**32 - 1))
def test_sums_and_centres_are_kept(offset: float, ratio: float, side: int, seed: int) -> None:
    weights = axis_weights(offset, ratio, side)
    values = np.random.default_rng(seed).random(side)
    out = weights.apply(values, axis=0)
    assert out.sum() == pytest.approx(values.sum() * ratio, rel=1e-6, abs=1e-6)
    length = weights.apply(np.ones(side), axis=0)
    assert (length <= 1 + 1e-9).all()
    centre = ((weights.start_px + np.arange(weights.n_px) + 0.5) * length).sum() / length.sum()
    # a pixel's share counts at its middle: off by less than half a pixel at each end
    assert abs(centre - (offset + side * ratio / 2)) < 0.5


@given(OFFSETS, RATIOS, SIDES)
def test_a_pixel_is_covered_where_its_centre_is(offset: float, ratio: float, side: int) -> None:
    weights = axis_weights(offset, ratio, side)
    centres = weights.start_px + np.arange(weights.n_px) + 0.5
    inside = (centres > offset + 1e-5) & (centres < offset + side * ratio - 1e-5)
    outside = (centres < offset - 1e-5) | (centres > offset + side * ratio + 1e-5)
    assert weights.covered[inside].all()
    assert not weights.covered[outside].any()
    assert (weights.apply(np.ones(side), axis=0)[weights.covered] > 0).all()


@given(st.integers(-99, 99), SIDES)
def test_whole_offsets_are_the_identity(offset: int, side: int) -> None:
    weights = axis_weights(offset + 1e-9, 1.0, side)
    assert weights.is_identity
    assert weights.start_px == offset
    assert weights.covered.all()


@pytest.mark.parametrize("side", [2, 16, 64])
def test_half_overlapping_hann_windows_add_up_to_one(side: int) -> None:
    window = window_1d(side, "hann")
    assert np.allclose(window[: side // 2] + window[side // 2 :], 1)
    assert (window > 0).all()
    assert (window_1d(side, "flat") == 1).all()


@given(st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=300), st.floats(0.01, 1))
def test_quantiles_are_right_to_a_hundredth(values: list[float], share: float) -> None:
    data = np.array(values, np.float32)
    whole, one, two = Histogram(), Histogram(), Histogram()
    whole.add(data)
    one.add(data[: len(data) // 2])
    two.add(data[len(data) // 2 :])
    one.merge(two)
    exact = float(np.quantile(data, share, method="inverted_cdf"))
    assert whole.quantile(share) == one.quantile(share)
    assert exact <= whole.quantile(share) * (1 + 1e-6) + 1e-37
    assert whole.quantile(share) <= exact * 1.01 + 1e-37


def test_a_histogram_of_nothing() -> None:
    empty = Histogram()
    empty.add(np.full(4, np.nan, np.float32))
    assert empty.summary().maximum == 0
    assert empty.quantile(0.5) == 0
