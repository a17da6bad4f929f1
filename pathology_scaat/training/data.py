"""All labelled patches of a split as one numbered set, read from many patch stores."""

from __future__ import annotations

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
from pathology_scaat.patches.reader import PatchStore
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
        """The patches of an index (n,), or of a mask (N,), in its order."""
        return PatchTable(self.stores, self.store_index[index], self.row[index], self.labels[index])

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8 in the order asked for; one request per store, all at once.

        ``index`` (n,) are numbers of this table.

        Raises
        ------
        StoreError
            If a store holds no pixels, or a shard is missing or damaged.
        """
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
    """Labels of a store's patches, -1 (all of a row, for several labels) where undecided.

    Parameters
    ----------
    store : PatchStore
    multi_label : bool
        Whether several classes may hold at once.
    min_coverage : float
        For several labels: share of the patch, 0 to 1, from which a class counts as present.

    Returns
    -------
    (N,) int64, or (N, K) float32 of 0 and 1
    """
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
        """Yield (index, (n, P, P, 3) uint8 on the device) for each batch of numbers, (n,) int64.

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


def whole_table(paths: Sequence[str | Path]) -> PatchTable:
    """All patches of some stores, labelled or not, one store after the other.

    Raises
    ------
    StoreError
        If a store cannot be opened, or their patch sizes differ.
    """
    stores = tuple(PatchStore(path) for path in paths)
    sizes = {store.patch_size_px for store in stores}
    if len(sizes) > 1:
        raise StoreError(
            "patch stores",
            f"hold patches of several sizes ({', '.join(map(str, sorted(sizes)))} px)",
            "tile all slides with one --patch-size",
        )
    none = np.zeros(0, np.int64)
    lengths = [len(store) for store in stores]
    return PatchTable(
        stores,
        np.repeat(np.arange(len(stores)), lengths),
        np.concatenate([none, *(np.arange(n) for n in lengths)]),
        np.concatenate([none, *(np.asarray(s.labels, np.int64) for s in stores)]),
    )


class PatchDataset(Dataset[tuple[torch.Tensor, int]]):
    """The patches of several stores as a data set for torch's ``DataLoader``.

    An item is (image (3, P, P) uint8, label); whole batches are fetched at once. Safe under fork
    and spawn: each process opens the stores itself. Training reads the same table through
    :class:`BatchLoader`, in threads and ahead of the device.

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
        self.table = whole_table(paths)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64 over all stores, -1 where there is none."""
        return np.asarray(self.table.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"there are {len(self)} patches")
        images = torch.from_numpy(self.table.read(wanted)).permute(0, 3, 1, 2)
        labels = self.table.labels[wanted].tolist()
        return list(zip(images, labels, strict=True))
