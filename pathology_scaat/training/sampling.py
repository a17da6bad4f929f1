"""Which patches an epoch shows, in what order, and which are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from pathology_scaat.training.data import PatchTable

BLOCK_TRIALS = 4
"""Random positions of which the one for a held-out block is chosen: neighbours look alike and must
not be torn apart, and a block at the rim of the tissue costs fewer training patches."""


def class_counts(labels: NDArray[Any], n_classes: int) -> NDArray[np.int64]:
    """Patches of each class, (K,) int64, from labels (N,) int or (N, K) of 0 and 1."""
    if labels.ndim == 2:
        return np.asarray((labels > 0.5).sum(axis=0), np.int64)
    return np.asarray(np.bincount(labels, minlength=n_classes), np.int64)


def class_weights(labels: NDArray[Any], n_classes: int) -> NDArray[np.float32]:
    """Loss weights, (K,): each class weighs the same in all, and the mean over patches is 1.

    Labels are (N,) int or (N, K) of 0 and 1. For several labels: negatives over positives of each
    class, at most 20.
    """
    counts = class_counts(labels, n_classes)
    if labels.ndim == 2:
        return np.clip((len(labels) - counts) / np.maximum(counts, 1), 0.05, 20).astype(np.float32)
    present = int((counts > 0).sum())
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0.0).astype(
        np.float32
    )


def epoch_batches(
    labels: NDArray[Any],
    n_classes: int,
    batch_size: int,
    rng: np.random.Generator,
    *,
    balanced: bool,
    max_steps: int | None,
) -> list[NDArray[np.int64]]:
    """Shuffled batches of one epoch; a last one below the size is dropped unless it is the only.

    Labels are (N,) int or (N, K) of 0 and 1; a batch is (B,) int64, indices into them. ``balanced``
    draws with replacement, each class equally often.
    """
    n = len(labels)
    if balanced:
        weights = class_weights(labels, n_classes)
        share = weights[labels] if labels.ndim == 1 else 1 + (labels * weights).sum(axis=1)
        order = rng.choice(n, size=n, replace=True, p=share / share.sum())
    else:
        order = rng.permutation(n)
    size = min(batch_size, n)
    batches = [order[i : i + size].astype(np.int64) for i in range(0, n - size + 1, size)]
    return batches[:max_steps] if max_steps else batches


@dataclass
class _Shares:
    """Patches of one class that are held out, and that still train, over the slides so far."""

    held: int = 0
    trained: int = 0

    def with_more(self, held: int, trained: int) -> float:
        """Share that would be held out with some more patches."""
        n = self.held + self.trained + held + trained
        return (self.held + held) / n if n else 0.0


def hold_out_blocks(table: PatchTable, share: float, seed: int) -> tuple[PatchTable, PatchTable]:
    """Hold out a block of each class in each slide, for cohorts without a slide to validate on.

    A block grows from a random patch of the class to its next neighbours until, over the
    slides so far, the held-out patches of the class are ``share`` of those that are held out
    or still train. Training patches that overlap a held-out one are dropped and count for
    neither. Validation stays optimistic all the same: it is the same slide.

    Parameters
    ----------
    table : PatchTable
        Labelled patches.
    share : float
        Share to hold out, in (0, 1). Where slides are so small that a block leaves nothing to
        train on, less is held out.
    seed : int
        Decides where the blocks lie.

    Returns
    -------
    train, held_out : PatchTable
        No patch of one overlaps a patch of the other.
    """
    rng = np.random.default_rng([seed, 7])
    held = np.zeros(len(table), bool)
    dropped = np.zeros(len(table), bool)
    main = table.labels if table.labels.ndim == 1 else table.labels.argmax(axis=1)
    so_far = {int(k): _Shares() for k in np.unique(main)}
    for number, store in enumerate(table.stores):
        mine = np.flatnonzero(table.store_index == number)
        if not len(mine):
            continue
        grid = store.meta.grid
        reach = max(1, -(-grid.patch_size_px // grid.step_px))  # steps within which two overlap
        cells = store.grid_index[table.row[mine]].astype(np.int64)
        classes, counts = np.unique(main[mine], return_counts=True)
        mine_held = np.zeros(len(mine), bool)
        for k in classes[np.argsort(counts, kind="stable")]:  # the rare class chooses first
            own = np.flatnonzero(main[mine] == k)
            block = _best_block(cells, own, mine_held, reach, share, so_far[int(k)], rng)
            mine_held[block] = True
        near = _near(cells, mine_held, reach)
        held[mine] = mine_held
        dropped[mine] = near & ~mine_held
        for k in classes:
            own_class = main[mine] == k
            so_far[int(k)].held += int((own_class & mine_held).sum())
            so_far[int(k)].trained += int((own_class & ~near).sum())
    return table.select(np.flatnonzero(~held & ~dropped)), table.select(np.flatnonzero(held))


def _best_block(
    cells: NDArray[np.int64],
    own: NDArray[np.int64],
    held: NDArray[np.bool_],
    reach: int,
    share: float,
    so_far: _Shares,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The patches of one class to hold out in a slide: of some random blocks the one that comes
    closest to the share, and of equal ones the one beside which fewest patches are lost."""

    def left_to_train(block: NDArray[np.int64]) -> int:
        with_block = held.copy()
        with_block[block] = True
        return int((~_near(cells, with_block, reach)[own]).sum())

    best: tuple[float, int] | None = None
    chosen = own[:0]
    for start in rng.choice(own, size=min(BLOCK_TRIALS, len(own)), replace=False):
        distance = np.abs(cells[own] - cells[start]).max(axis=1)
        order = own[np.argsort(distance, kind="stable")]
        # The share grows with the block: the last size that is not too large, and the next.
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            trained = left_to_train(order[:middle])
            if trained > 0 and so_far.with_more(middle, trained) <= share:
                low = middle
            else:
                high = middle
        for size in (low, high):
            trained = left_to_train(order[:size])
            if trained == 0:
                continue
            quality = (abs(so_far.with_more(size, trained) - share), len(own) - trained - size)
            if best is None or quality < best:
                best, chosen = quality, order[:size]
    return chosen


def _near(cells: NDArray[np.int64], held: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Which cells lie closer than ``reach`` steps to a held-out one on both axes; itself too."""
    low = cells.min(axis=0)
    picture = np.zeros(tuple(cells.max(axis=0) - low + 1), np.uint8)
    picture[tuple((cells[held] - low).T)] = 1
    grown = maximum_filter(picture, size=2 * reach - 1, mode="constant")
    return np.asarray(grown[tuple((cells - low).T)] > 0)
