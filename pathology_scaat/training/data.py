"""All labelled patches of a split as one numbered set, read from many patch stores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pathology_scaat.errors import StoreError
from pathology_scaat.execution.devices import recorded_event
from pathology_scaat.patches.reader import PatchStore, PendingRead
from pathology_scaat.training.results import TrainingSlide


@dataclass(frozen=True)
class PatchTable:
    """Which patch is number i: the store it is in, its row there, and its label.

    Attributes
    ----------
    stores : tuple of PatchStore
    store_index, row : (N,) int64
    labels : (N,) int64, or (N, K) float32 for several labels
    """

    stores: tuple[PatchStore, ...]
    store_index: NDArray[np.int64]
    row: NDArray[np.int64]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.row)

    def select(self, index: NDArray[Any]) -> PatchTable:
        """The patches of an index or mask, in its order."""
        return PatchTable(self.stores, self.store_index[index], self.row[index], self.labels[index])

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8 in the order asked for; one request a store, all at once."""
        where = self.store_index[index]
        rows = self.row[index]
        side = self.stores[0].patch_size_px
        patches = np.empty((len(index), side, side, 3), np.uint8)
        pending = []
        for number in np.unique(where):
            mine = np.flatnonzero(where == number)
            pending.append(self.stores[number].read_into(rows[mine], patches, mine))
        for part in pending:
            part.result()
        return patches


def patch_labels(store: PatchStore, multi_label: bool, min_coverage: float) -> NDArray[Any]:
    """Labels of a store's patches, -1 (all of a row, for several labels) where undecided."""
    if not multi_label:
        return store.labels.astype(np.int64)
    coverage = store.label_coverage
    labels = (coverage >= min_coverage).astype(np.float32)
    labels[coverage.sum(axis=1) <= 0] = -1
    return labels


def make_table(
    slides: Sequence[TrainingSlide], multi_label: bool, min_coverage: float
) -> PatchTable:
    """The labelled patches of some slides, in the slides' order."""
    stores = tuple(PatchStore(slide.store) for slide in slides)
    store_index, rows, labels = [], [], []
    for number, store in enumerate(stores):
        own = patch_labels(store, multi_label, min_coverage)
        chosen = np.flatnonzero((own if own.ndim == 1 else own[:, 0]) >= 0)
        store_index.append(np.full(len(chosen), number, np.int64))
        rows.append(chosen.astype(np.int64))
        labels.append(own[chosen])
    if not stores:
        none = np.zeros(0, np.int64)
        return PatchTable((), none, none, none)
    return PatchTable(
        stores, np.concatenate(store_index), np.concatenate(rows), np.concatenate(labels)
    )


class BatchLoader:
    """Reads batches ahead of the device, from memory where the set fits.

    Parameters
    ----------
    table : PatchTable
    cache_bytes : int
        Keep the whole set in memory if it is no larger.
    device : torch.device
        Batches for a GPU come from pinned memory.
    ahead : int
        Batches read in advance.
    """

    def __init__(
        self, table: PatchTable, cache_bytes: int, device: torch.device, ahead: int = 3
    ) -> None:
        self.table = table
        self.device = device
        self.ahead = ahead
        self._waits: list[tuple[Any, Any]] = []
        side = table.stores[0].patch_size_px if table.stores else 0
        self._cache: NDArray[np.uint8] | None = None
        self._may_cache = 0 < len(table) * side * side * 3 <= cache_bytes

    def _read(self, index: NDArray[np.int64]) -> Tensor:
        if self._may_cache and self._cache is None:
            self._cache = self._read_all()
        pixels = self._cache[index] if self._cache is not None else self.table.read(index)
        patches = torch.from_numpy(pixels)
        return patches.pin_memory() if self.device.type == "cuda" else patches

    def _read_all(self) -> NDArray[np.uint8]:
        numbers = np.arange(len(self.table))
        parts = [self.table.read(numbers[i : i + 512]) for i in range(0, len(numbers), 512)]
        return np.concatenate(parts)

    def __call__(
        self, batches: Sequence[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Yield (index, (n, P, P, 3) uint8 on the device) for each batch.

        What the device waits for the batches is counted anew (:meth:`waited_s`).
        """
        self._waits.clear()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="patches") as executor:
            pending = [executor.submit(self._read, b) for b in batches[: self.ahead]]
            for number, index in enumerate(batches):
                begin = self._now()
                patches = pending.pop(0).result().to(self.device, non_blocking=True)
                self._waits.append((begin, self._now()))
                following = number + self.ahead
                if following < len(batches):
                    pending.append(executor.submit(self._read, batches[following]))
                yield index, patches

    def _now(self) -> Any:
        """This moment; on a GPU that of its queue: when it has done what it was given so far."""
        return perf_counter() if self.device.type != "cuda" else recorded_event(self.device, True)

    def waited_s(self) -> float:
        """Seconds for which the device had nothing to do but wait for the last call's batches.

        A GPU works through its queue while the host waits, so that its own clock is asked: from
        the end of a batch's work to the next batch's arrival. Waits for the device.
        """
        if self.device.type != "cuda":
            return float(sum(end - begin for begin, end in self._waits))
        torch.cuda.synchronize(self.device)
        return float(sum(begin.elapsed_time(end) for begin, end in self._waits)) / 1000


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
