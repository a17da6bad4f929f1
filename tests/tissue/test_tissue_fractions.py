"""Box fractions of a mask against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.errors import UsageError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.tissue.mask import TissueMask


def mask_of(pixels: np.ndarray, scale: float, origin: tuple[float, float]) -> TissueMask:
    height, width = pixels.shape
    return TissueMask(
        mask=pixels,
        scale_px=scale,
        frame_px=BoxPx(0, 0, round(width * scale), round(height * scale)),
        thumbnail=np.zeros((height, width, 3), dtype=np.uint8),
        flags=(),
        origin_px=origin,
        ink=np.zeros_like(pixels),
    )


def brute_force(mask: TissueMask, origins: np.ndarray, side: float) -> np.ndarray:
    """Sum of the overlaps of the box with each mask pixel, one by one."""
    out = []
    for x, y in origins:
        area = 0.0
        for row, col in np.argwhere(mask.mask):
            left = mask.origin_px[0] + col * mask.scale_px
            top = mask.origin_px[1] + row * mask.scale_px
            wide = min(x + side, left + mask.scale_px) - max(x, left)
            high = min(y + side, top + mask.scale_px) - max(y, top)
            area += max(wide, 0.0) * max(high, 0.0)
        out.append(area / side**2)
    return np.array(out)


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.5, 40),
    side=st.floats(0.3, 300),
    shift=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_fractions_are_exact(
    seed: int, scale: float, side: float, shift: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < 0.5
    mask = mask_of(pixels, scale, shift)
    origins = rng.uniform(-1.5 * side, 9 * scale, (6, 2)) + np.array(shift)
    found = mask.fractions(origins, side)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, brute_force(mask, origins, side), atol=1e-6)


def test_many_boxes_at_once_are_fast_and_bounded() -> None:
    pixels = np.ones((3000, 3000), dtype=bool)
    mask = mask_of(pixels, 32.0, (0.0, 0.0))
    origins = np.random.default_rng(0).uniform(0, 90_000, (100_000, 2))
    found = mask.fractions(origins, 512.0)
    np.testing.assert_allclose(found, 1.0)


@pytest.mark.parametrize("side", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_side_is_refused(side: float) -> None:
    mask = mask_of(np.ones((2, 2), dtype=bool), 1.0, (0.0, 0.0))
    with pytest.raises(UsageError, match="length"):
        mask.fractions([(0, 0)], side)
