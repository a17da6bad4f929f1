"""What the kernels say of each pixel is what their definitions say of whole pictures."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.slides.block_mean import block_mean
from pathology_scaat.tissue.density import density_table
from pathology_scaat.tissue.kernels import PALE_OD, count, measure_pixels
from pathology_scaat.tissue.segmentation import _above_glass

GLASS = np.array([241.0, 243.0, 238.0])


def ink_seeds(od: np.ndarray, most: np.ndarray) -> np.ndarray:
    red, green, blue = od
    strong = most > 0.15
    green_ink = strong & (green < 0.75 * np.minimum(red, blue)) & (red - green > 0.06)
    blue_ink = strong & (red > 1.1 * green + 0.02) & (red > 1.3 * blue)
    blue_ink |= (red > 0.7) & (red > 1.03 * green) & (red > 1.3 * blue)
    cyan_ink = strong & (red > 1.5 * green + 0.03) & (red > blue)
    red_ink = (green > 0.45) & (blue > 0.82 * green) & (red < 0.3 * green)
    red_ink |= (green > 0.9) & (blue > 0.85 * green) & (red < 0.5 * green)
    return green_ink | blue_ink | cyan_ink | red_ink


def test_pixels_are_judged_as_whole_pictures_are() -> None:
    """All hues and depths: every 3rd level of each channel, 614,125 colours."""
    levels = np.arange(0, 255, 3, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    rgb = rgb.reshape(len(levels), -1, 3)
    table = density_table(GLASS)
    colour = np.empty(rgb.shape[:2], dtype=np.float32)
    pale, seeds = np.empty((2, *rgb.shape[:2]), dtype=np.bool_)
    measure_pixels(rgb, table, colour, pale, seeds)
    od = np.stack([table[channel][rgb[..., channel]] for channel in range(3)])
    assert np.array_equal(colour, od.max(axis=0) - od.min(axis=0))
    assert np.array_equal(pale, od[0] + od[1] + od[2] < 3 * PALE_OD)
    expected = ink_seeds(od, od.max(axis=0))
    assert np.array_equal(seeds, expected)
    assert 0.1 < expected.mean() < 0.9


@given(seed=st.integers(0, 50))
def test_values_are_counted_in_their_bins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.random((17, 31)) ** 4).astype(np.float32)
    where = rng.random((17, 31)) < 0.7
    counts = np.zeros(2000, dtype=np.int64)
    count(values, where, np.float32(1e-3), counts)
    bins = (values[where] / np.float32(1e-3)).astype(np.int32)
    assert np.array_equal(counts, np.bincount(bins, minlength=2000))


def test_the_densest_colour_has_a_bin() -> None:
    """Black beside white, all taken for glass: the widest range that there is."""
    rgb = np.full((20, 20, 3), 255, dtype=np.uint8)
    widest = density_table(np.full(3, 255.0)).max()
    colour = np.full((20, 20), widest, dtype=np.float32)
    threshold = _above_glass(colour, rgb, np.full(3, 255.0), np.ones((20, 20), dtype=bool))
    assert threshold == 0.04  # the bound, and no error


def test_blocks_of_four_are_means_rounded_half_up() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    pixels[:4, :4] = 255
    pixels[:4, 4:8] = np.arange(16).reshape(4, 4, 1) // 8  # a mean of one half
    sums = pixels.reshape(16, 4, 32, 4, 3).sum(axis=(1, 3))
    into = np.zeros((40, 50, 3), dtype=np.uint8)
    got = block_mean(pixels, 4, into[10:26, 5:37])
    assert np.array_equal(got, (sums + 8) // 16)
    assert got[0, 1].tolist() == [1, 1, 1]
    assert not into[:10].any()
    assert not into[26:].any()
