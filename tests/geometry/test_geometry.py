"""Coordinate arithmetic against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.errors import UsageError
from pathology_scaat.geometry import (
    BoxPx,
    SizePx,
    mpp_from_magnification,
    parse_overlap,
    plan_grid,
    plan_read,
    snapped_downsample,
)

ODD_MPPS = st.sampled_from([0.2423, 0.265, 0.2524, 0.499, 0.5, 0.5043, 1.0087, 0.12])
REQUESTS = st.sampled_from([0.25, 0.5, 0.47, 1.0, 1.55, 2.0, 4.0, 8.33])


def pyramid(size: SizePx, factors: tuple[int, ...], rounding: str) -> tuple[float, ...]:
    """Downsamples of a pyramid whose level sizes were floored or ceiled."""
    result = []
    for factor in factors:
        if rounding == "floor":
            level = SizePx(max(size.width // factor, 1), max(size.height // factor, 1))
        else:
            level = SizePx(-(-size.width // factor), -(-size.height // factor))
        result.append(snapped_downsample(size, level))
    return tuple(result)


@given(
    width=st.integers(20_000, 120_000),
    height=st.integers(20_000, 120_000),
    factors=st.sampled_from([(1, 2, 4, 8), (1, 4, 16), (1, 4, 16, 32), (1,)]),
    rounding=st.sampled_from(["floor", "ceil"]),
)
def test_odd_level_sizes_snap_to_the_factor_they_were_made_with(
    width: int, height: int, factors: tuple[int, ...], rounding: str
) -> None:
    assert pyramid(SizePx(width, height), factors, rounding) == tuple(float(f) for f in factors)


def test_a_downsample_that_no_whole_factor_explains_is_kept_as_it_is() -> None:
    ratio = snapped_downsample(SizePx(1000, 1000), SizePx(667, 667))
    assert ratio == pytest.approx(1.4993, abs=1e-4)


@given(
    mpp=ODD_MPPS,
    request=REQUESTS,
    factors=st.sampled_from([(1.0, 2.0, 4.0, 8.0), (1.0, 4.0, 16.0)]),
    patch_size_px=st.sampled_from([96, 128, 224, 256, 299]),
    overlap=st.sampled_from(["0", "0.5", "0.3", "64px"]),
    x=st.integers(0, 5000),
    y=st.integers(0, 5000),
)
def test_boxes_never_drift_over_a_hundred_thousand_px(
    mpp: float,
    request: float,
    factors: tuple[float, ...],
    patch_size_px: int,
    overlap: str,
    x: int,
    y: int,
) -> None:
    plan = plan_read(mpp, factors, request)
    step_px = parse_overlap(overlap, patch_size_px)
    region = BoxPx(x, y, 100_000, 100_000)
    grid = plan_grid(region, plan, patch_size_px, step_px)
    # the exact scale: the level's own factor where it is used as it is, else the ratio of µm/px
    exact_scale = (
        Fraction(plan.level_downsample) if plan.shrink == 1.0 else Fraction(request) / Fraction(mpp)
    )
    snap = plan.level_downsample if plan.shrink == 1.0 else 1.0
    corners = np.array([[0, 0], [grid.n_cols - 1, 0], [0, grid.n_rows - 1], [grid.n_cols // 2, 1]])
    got = grid.origins_px(corners)
    for (col, row), (got_x, got_y) in zip(corners.tolist(), got.tolist(), strict=True):
        for index, got_v, start in ((col, got_x, x), (row, got_y, y)):
            exact = Fraction(grid.anchor_x_px if start is x else grid.anchor_y_px)
            exact = exact + index * step_px * exact_scale
            assert abs(got_v - exact) <= Fraction(501, 1000)
    assert abs(grid.anchor_x_px - x) <= snap / 2
    assert abs(grid.anchor_y_px - y) <= snap / 2


@given(
    mpp=ODD_MPPS,
    request=REQUESTS,
    patch_size_px=st.integers(16, 512),
    overlap=st.sampled_from(["0", "0.5", "0.75"]),
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
)
def test_the_grid_covers_the_region_and_no_row_or_column_is_wasted(
    mpp: float, request: float, patch_size_px: int, overlap: str, width: int, height: int
) -> None:
    plan = plan_read(mpp, (1.0, 2.0, 4.0, 8.0), request)
    step_px = parse_overlap(overlap, patch_size_px)
    grid = plan_grid(BoxPx(0, 0, width, height), plan, patch_size_px, step_px)
    for count, extent in ((grid.n_cols, width), (grid.n_rows, height)):
        end = ((count - 1) * step_px + patch_size_px) * grid.scale
        assert end >= extent - 1e-6
        if count > 1:
            without_last = ((count - 2) * step_px + patch_size_px) * grid.scale
            assert without_last < extent


@given(mpp=ODD_MPPS, request=REQUESTS)
def test_a_level_is_used_as_it_is_only_within_the_tolerance(mpp: float, request: float) -> None:
    plan = plan_read(mpp, (1.0, 2.0, 4.0), request, tolerance=0.02)
    if plan.shrink == 1.0:
        assert abs(plan.effective_mpp / request - 1) <= 0.02
    else:
        assert plan.effective_mpp == request
        level_mpp = mpp * plan.level_downsample
        assert level_mpp < request or plan.level == 0
    assert plan.scale * mpp == pytest.approx(plan.effective_mpp)


def test_slide_order_is_row_by_row() -> None:
    plan = plan_read(0.5, (1.0,), 0.5)
    grid = plan_grid(BoxPx(0, 0, 30, 20), plan, 10, 10)
    assert grid.all_indices().tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    assert grid.origins_px(grid.all_indices())[4].tolist() == [10, 10]


@pytest.mark.parametrize(
    ("text", "step_px"), [("0", 256), ("0.5", 128), ("64px", 192), ("0.25", 192), (" 32PX ", 224)]
)
def test_overlap_is_a_ratio_or_pixels(text: str, step_px: int) -> None:
    assert parse_overlap(text, 256) == step_px


@pytest.mark.parametrize("text", ["1", "-0.1", "256px", "half", "", "nan", "inf", "-3px"])
def test_an_impossible_overlap_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--overlap"):
        parse_overlap(text, 256)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_an_impossible_spacing_is_refused(mpp: float) -> None:
    with pytest.raises(UsageError, match="plausible"):
        plan_read(mpp, (1.0,), 0.5)
    with pytest.raises(UsageError, match="plausible"):
        plan_read(0.5, (1.0,), mpp)


def test_magnification_is_an_alias_of_spacing() -> None:
    assert mpp_from_magnification(20) == 0.5
    with pytest.raises(UsageError, match="--mag"):
        mpp_from_magnification(0)


@given(
    a=st.tuples(*[st.integers(-50, 50)] * 2, *[st.integers(1, 40)] * 2),
    b=st.tuples(*[st.integers(-50, 50)] * 2, *[st.integers(1, 40)] * 2),
)
def test_intersection_holds_exactly_the_common_pixels(
    a: tuple[int, int, int, int], b: tuple[int, int, int, int]
) -> None:
    first, second = BoxPx(*a), BoxPx(*b)

    def pixels(box: BoxPx) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box.x, box.right) for y in range(box.y, box.bottom)}

    common = first.intersection(second)
    assert (pixels(common) if common else set()) == pixels(first) & pixels(second)
