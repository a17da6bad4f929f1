"""Which patches an epoch shows, in what order, and which are held out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.training.data import PatchTable

BLOCK_PATCHES = 4
"""Side of a held-out block, in patches: neighbours look alike and must not be torn apart."""


def class_counts(labels: NDArray[Any], n_classes: int) -> NDArray[np.int64]:
    """Patches of each class, (K,)."""
    if labels.ndim == 2:
        return np.asarray((labels > 0.5).sum(axis=0), np.int64)
    return np.asarray(np.bincount(labels, minlength=n_classes), np.int64)


def class_weights(labels: NDArray[Any], n_classes: int) -> NDArray[np.float32]:
    """Loss weights, (K,): each class weighs the same in all, and the mean over patches is 1.

    For several labels: negatives over positives of each class, at most 20.
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

    ``balanced`` draws with replacement, each class equally often.
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


def hold_out_blocks(table: PatchTable, share: float, seed: int) -> tuple[PatchTable, PatchTable]:
    """Split each slide's patches into training and validation by square blocks of the grid.

    For cohorts without a slide to validate on. Blocks are drawn at random, separately where a
    class prevails, until the share is reached; training patches that overlap a held-out one are
    dropped. Validation stays optimistic all the same: it is the same slide.
    """
    rng = np.random.default_rng([seed, 7])
    held = np.zeros(len(table), bool)
    dropped = np.zeros(len(table), bool)
    for number, store in enumerate(table.stores):
        mine = np.flatnonzero(table.store_index == number)
        if not len(mine):
            continue
        grid = store.meta.grid
        reach = max(1, -(-grid.patch_size_px // grid.step_px))  # steps within which two overlap
        cells = store.grid_index[table.row[mine]].astype(np.int64)
        block = cells // (BLOCK_PATCHES * reach)
        _, key = np.unique(block, axis=0, return_inverse=True)
        key = key.reshape(-1)
        labels = table.labels[mine]
        main = labels if labels.ndim == 1 else labels.argmax(axis=1)
        n_blocks = int(key.max()) + 1
        votes = np.zeros((n_blocks, int(main.max()) + 1), np.int64)
        np.add.at(votes, (key, main), 1)
        chosen: list[int] = []
        for k in range(votes.shape[1]):
            own = np.flatnonzero(votes.argmax(axis=1) == k)
            own = own[votes[own, k] > 0]
            if len(own) > 1:
                size = votes[own].sum(axis=1)
                order = rng.permutation(len(own))
                enough = np.searchsorted(np.cumsum(size[order]), share * size.sum()) + 1
                chosen.extend(own[order[: min(enough, len(own) - 1)]])
        mine_held = np.isin(key, chosen)
        held[mine[mine_held]] = True
        dropped[mine] = _near(cells, mine_held, reach) & ~mine_held
    return table.select(np.flatnonzero(~held & ~dropped)), table.select(np.flatnonzero(held))


def _near(cells: NDArray[np.int64], held: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Which cells lie closer than ``reach`` steps to a held-out one, on both axes."""
    low = cells.min(axis=0)
    picture = np.zeros(tuple(cells.max(axis=0) - low + 1), bool)
    picture[tuple((cells[held] - low).T)] = True
    grown = picture.copy()
    for axis in (0, 1):
        wide = grown.copy()
        for step in range(1, reach):
            wide |= np.roll(_padded(grown, step, axis), step, axis=axis).take(
                range(grown.shape[axis]), axis=axis
            )
            wide |= np.roll(_padded(grown, step, axis), -step, axis=axis).take(
                range(grown.shape[axis]), axis=axis
            )
        grown = wide
    return np.asarray(grown[tuple((cells - low).T)])


def _padded(picture: NDArray[np.bool_], step: int, axis: int) -> NDArray[np.bool_]:
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, step)
    return np.pad(picture, widths)
