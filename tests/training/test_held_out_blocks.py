"""Blocks held out where no slide validates: as many as asked for, and none that overlaps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.sampling import hold_out_blocks


def slide(rng: np.random.Generator, side: int, reach: int, tissue: float) -> tuple[Any, np.ndarray]:
    """A grid with a hole here and there and a tumour in one part of it."""
    rows, cols = np.mgrid[0:side, 0:side]
    index = np.stack([cols.ravel(), rows.ravel()], axis=1)
    index = index[rng.random(len(index)) < tissue]
    centre, radius = rng.uniform(0, side, 2), rng.uniform(0.2, 0.6) * side
    labels = (np.hypot(*(index - centre).T) < radius).astype(np.int64)
    grid = SimpleNamespace(patch_size_px=reach * 64, step_px=64)
    return SimpleNamespace(meta=SimpleNamespace(grid=grid), grid_index=index), labels


def table_of(parts: list[tuple[Any, np.ndarray]]) -> PatchTable:
    sizes = [len(labels) for _, labels in parts]
    return PatchTable(
        tuple(store for store, _ in parts),
        np.repeat(np.arange(len(parts)), sizes),
        np.concatenate([np.arange(n) for n in sizes]),
        np.concatenate([labels for _, labels in parts]),
    )


def overlapping_pairs(train: PatchTable, val: PatchTable) -> int:
    found = 0
    for number, store in enumerate(train.stores):
        reach = store.meta.grid.patch_size_px // store.meta.grid.step_px
        one = store.grid_index[train.row[train.store_index == number]]
        other = store.grid_index[val.row[val.store_index == number]]
        apart = np.abs(one[:, None] - other[None]).max(axis=2)
        found += int((apart < reach).sum())
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    n_slides=st.integers(1, 4),
    side=st.integers(6, 16),
    reach=st.integers(1, 3),
    share=st.sampled_from([0.1, 0.2, 0.3]),
)
def test_the_share_is_kept_and_nothing_overlaps(
    seed: int, n_slides: int, side: int, reach: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    table = table_of([slide(rng, side, reach, rng.uniform(0.6, 1)) for _ in range(n_slides)])
    train, val = hold_out_blocks(table, share, seed)
    assert overlapping_pairs(train, val) == 0
    seen = {(s, r) for t in (train, val) for s, r in zip(t.store_index, t.row, strict=True)}
    assert len(seen) == len(train) + len(val) <= len(table)
    held = len(val) / (len(val) + len(train))
    assert abs(held - share) < 0.1


def test_the_share_is_close_over_many_small_grids() -> None:
    shares = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 4))
        parts = [
            slide(rng, int(rng.integers(6, 20)), int(rng.integers(1, 3)), 0.9) for _ in "x" * n
        ]
        train, val = hold_out_blocks(table_of(parts), 0.2, seed)
        shares.append(len(val) / (len(val) + len(train)))
    assert np.median(shares) == pytest.approx(0.2, abs=0.02)
    low, high = np.percentile(shares, [5, 95])
    assert (low, high) == (pytest.approx(0.2, abs=0.05), pytest.approx(0.2, abs=0.05))


def test_both_classes_are_held_out_and_both_are_left() -> None:
    rng = np.random.default_rng(3)
    train, val = hold_out_blocks(table_of([slide(rng, 14, 2, 1.0)]), 0.2, 0)
    assert set(train.labels) == set(val.labels) == {0, 1}


def test_a_slide_of_one_patch_is_trained_on() -> None:
    rng = np.random.default_rng(0)
    train, val = hold_out_blocks(table_of([slide(rng, 1, 2, 1.0)]), 0.2, 0)
    assert (len(train), len(val)) == (1, 0)
