"""Area averaging: exact, and the same however it is cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.patches import resample
from pathology_scaat.patches.resample import average, axis_weights, source_box

starts = st.floats(0, 40)
shrinks = st.floats(0.3, 9.0)


@given(start=starts, shrink=shrinks, index=st.integers(0, 500), n=st.integers(1, 60))
def test_weights_are_the_exact_overlaps(start: float, shrink: float, index: int, n: int) -> None:
    weights = axis_weights(start, shrink, index, n)
    assert (weights.begin >= 0).all()
    assert (weights.begin + weights.weights.shape[1] <= weights.count).all()
    np.testing.assert_allclose(weights.weights.sum(axis=1), 1, atol=1e-5)
    for i in range(n):
        low, high = start + (index + i) * shrink, start + (index + i + 1) * shrink
        pixels = weights.first + weights.begin[i] + np.arange(weights.weights.shape[1])
        overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
        np.testing.assert_allclose(weights.weights[i], overlap / shrink, atol=1e-4)


@settings(max_examples=40)
@given(
    start=starts,
    shrink=shrinks,
    split=st.integers(1, 11),
    seed=st.integers(0, 99),
)
def test_cutting_changes_nothing(start: float, shrink: float, split: int, seed: int) -> None:
    canvas = np.random.default_rng(seed).integers(0, 256, (400, 400, 3), dtype=np.uint8)

    def make(x: int, y: int, width: int, height: int) -> np.ndarray:
        columns = axis_weights(start, shrink, x, width)
        rows = axis_weights(start, shrink, y, height)
        box = source_box(columns, rows)
        return average(canvas[box.y : box.bottom, box.x : box.right], columns, rows)

    whole = make(3, 3, 12, 12)
    rest = 12 - split
    parts = np.concatenate(
        [
            np.concatenate([make(3, y, split, h), make(3 + split, y, rest, h)], axis=1)
            for y, h in ((3, split), (3 + split, rest))
        ]
    )
    assert np.array_equal(whole, parts)


@given(value=st.integers(0, 255), shrink=shrinks, start=starts)
def test_a_constant_stays_what_it_is(value: int, shrink: float, start: float) -> None:
    axis = axis_weights(start, shrink, 0, 9)
    source = np.full((axis.count, axis.count, 3), value, dtype=np.uint8)
    assert (average(source, axis, axis) == value).all()


def test_whole_factors_are_plain_means() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    axis = axis_weights(0.0, 4.0, 0, 10)
    expected = np.floor(source.reshape(10, 4, 10, 4, 3).mean(axis=(1, 3)) + 0.5)
    assert np.abs(average(source, axis, axis) - expected).max() <= 1
    identity = axis_weights(0.0, 1.0, 0, 40)
    assert np.array_equal(average(source, identity, identity), source)


@given(factor=st.integers(1, 9), n=st.integers(1, 40), start=st.integers(0, 5))
def test_whole_factors_give_what_the_weights_give(factor: int, n: int, start: int) -> None:
    columns, rows = axis_weights(start, factor, 2, n), axis_weights(0.0, factor, 0, 17)
    rng = np.random.default_rng(factor)
    source = rng.integers(0, 256, (rows.count, columns.count, 3), dtype=np.uint8)
    assert resample._whole_factor(columns, rows) == factor
    got = average(source, columns, rows)
    lines = np.empty((17, n * 3), dtype=np.uint8)
    resample._average(
        source.reshape(rows.count, -1), rows.begin, rows.weights, columns.begin, columns.weights,
        lines,
    )  # fmt: skip
    assert np.array_equal(got, lines.reshape(17, n, 3))
