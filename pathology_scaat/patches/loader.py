"""Patches of many stores for torch: batches are read while the last one is computed on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pathology_scaat.errors import StoreError
from pathology_scaat.patches.store import PatchStore, PendingRead


@dataclass(frozen=True, eq=False)
class PatchBatch:
    """A batch: ``images`` (n, 3, P, P) uint8, ``labels`` (n,) int64, ``index`` (n,) int64.

    ``index`` counts through all stores, in their order.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


class PatchDataset(Dataset[tuple[torch.Tensor, int]]):
    """The patches of several stores, one after the other.

    An item is (image (3, P, P) uint8, label). ``DataLoader`` fetches whole batches at once.
    Safe under fork and spawn: each process opens the stores itself.

    Parameters
    ----------
    paths : sequence of str or Path
        Patch stores of one patch size.

    Raises
    ------
    StoreError
        If a store cannot be opened, or their patch sizes differ.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.stores = [PatchStore(path) for path in paths]
        sizes = {store.patch_size_px for store in self.stores}
        if len(sizes) > 1:
            raise StoreError(
                "patch stores",
                f"hold patches of several sizes ({', '.join(map(str, sorted(sizes)))} px)",
                "tile all slides with one --patch-size",
            )
        lengths = [len(store) for store in self.stores]
        self._ends = np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def labels(self) -> NDArray[np.int16]:
        """(N,) int16 over all stores."""
        parts = [store.labels for store in self.stores]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)

    def read_async(self, index: NDArray[np.integer]) -> _PendingBatch:
        """Start reading some patches, counted through all stores; order is kept."""
        wanted = np.asarray(index, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"there are {len(self)} patches")
        owner = np.searchsorted(self._ends, wanted, side="right")
        side = self.stores[0].patch_size_px if self.stores else 0
        images = np.empty((len(wanted), side, side, 3), dtype=np.uint8)
        parts = []
        for number in np.unique(owner):
            place = np.flatnonzero(owner == number)
            store = self.stores[number]
            local = wanted[place] - (self._ends[number] - len(store))
            parts.append((place, store.labels[local], store.read_into(local, images, place)))
        return _PendingBatch(wanted, images, parts)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        batch = self.read_async(np.array([index])).result()
        return batch.images[0], int(batch.labels[0])

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        batch = self.read_async(np.asarray(indices)).result()
        return [
            (image, int(label)) for image, label in zip(batch.images, batch.labels, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class _PendingBatch:
    wanted: NDArray[np.int64]
    images: NDArray[np.uint8]
    parts: list[tuple[NDArray[np.intp], NDArray[np.int16], PendingRead]]

    def result(self) -> PatchBatch:
        labels = np.empty(len(self.wanted), dtype=np.int64)
        for place, label, pending in self.parts:
            pending.result()
            labels[place] = label
        return PatchBatch(
            torch.from_numpy(self.images).permute(0, 3, 1, 2),
            torch.from_numpy(labels),
            torch.from_numpy(self.wanted),
        )


class PatchLoader:
    """Batches of a :class:`PatchDataset`, read some ahead of the one in use.

    The stores read in threads of their own, so that no worker processes are needed and reading
    overlaps with computing. Each pass over the loader shuffles anew, from ``seed`` and the
    number of the pass; with one seed every run gives the same batches.

    Parameters
    ----------
    dataset : PatchDataset
        Where patches come from.
    batch_size : int
        Patches a batch; the last one of a pass may be smaller.
    index : (n,) int array, optional
        Only these patches (default all).
    shuffle : bool
        In random order, else in the order given.
    seed : int
        Decides the order.
    ahead : int
        Batches read ahead.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        batch_size: int,
        *,
        index: NDArray[np.integer] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        ahead: int = 2,
    ) -> None:
        self._dataset = dataset
        self._index = np.arange(len(dataset)) if index is None else np.asarray(index)
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._ahead = max(1, ahead)
        self.passes = 0

    def __len__(self) -> int:
        return -(-len(self._index) // self._batch_size)

    def __iter__(self) -> Iterator[PatchBatch]:
        order = self._index
        if self._shuffle:
            order = np.random.default_rng((self._seed, self.passes)).permutation(order)
        self.passes += 1
        pending: deque[Any] = deque()
        for start in range(0, len(order), self._batch_size):
            pending.append(self._dataset.read_async(order[start : start + self._batch_size]))
            if len(pending) > self._ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
