"""Reading a patch store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.patches.layout import kvstore, read_group
from pathology_scaat.patches.schema import PatchStoreMeta

Indices = Sequence[int] | NDArray[np.integer] | slice


class PatchStore:
    """The patches of one slide, N of them in slide order (row by row).

    Opening reads only the metadata; a pickled store is a path, opened anew where it arrives.
    Pixels are read by TensorStore, whose threads forbid a process to fork once it has read
    any: fork before, as ``torch.utils.data.DataLoader`` does in an ordinary script, or use
    spawn, or :class:`~pathology_scaat.patches.loader.PatchLoader`, which needs no processes.
    Everything else (labels, origins, lengths) may be read before a fork.

    Parameters
    ----------
    path : str or Path
        The store's folder.

    Raises
    ------
    StoreError
        If it is missing, partial or of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.meta = PatchStoreMeta.from_attributes(read_group(self.path), self.path.name)
        self._arrays: dict[str, Any] = {}
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _array(self, name: str) -> Any:
        if self._pid != os.getpid():  # forked before anything was read
            self._arrays, self._pid = {}, os.getpid()
        if name not in self._arrays:
            try:
                self._arrays[name] = ts.open(
                    {
                        "driver": "zarr3",
                        "kvstore": kvstore(self.path, name),
                        # A shard that is not there is damage, not a black picture.
                        "fill_missing_data_reads": False,
                    },
                    context=_context(),
                    read=True,
                    open=True,
                ).result()
            except ValueError:
                raise self._damaged(name) from None
        return self._arrays[name]

    def _damaged(self, name: str) -> StoreError:
        return StoreError(
            self.path.name, f"its array '{name}' is damaged", "make it again with 'scaat tile'"
        )

    def _column(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(zarr.open_array(self.path / name, mode="r")[...])
        except (OSError, ValueError, RuntimeError, KeyError):
            raise self._damaged(name) from None

    @cached_property
    def _length(self) -> int:
        try:
            return int(zarr.open_array(self.path / "patches", mode="r").shape[0])
        except (OSError, ValueError, KeyError):
            raise self._damaged("patches") from None

    def __len__(self) -> int:
        return self._length

    @property
    def patch_size_px(self) -> int:
        return self.meta.grid.patch_size_px

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """(N,) int16, index into ``meta.class_names`` or -1."""
        return self._column("label")

    @cached_property
    def origins_px(self) -> NDArray[np.int64]:
        """(N, 2) int64, level-0 x, y of the top-left corner."""
        return self._column("origin_px")

    @cached_property
    def grid_index(self) -> NDArray[np.int32]:
        """(N, 2) int32, column, row in ``meta.grid``."""
        return self._column("grid_index")

    @cached_property
    def tissue_fraction(self) -> NDArray[np.float32]:
        """(N,) float32, 0 to 1."""
        return self._column("tissue_fraction")

    @cached_property
    def label_coverage(self) -> NDArray[np.float32]:
        """(N, K) float32, share of the patch that each class covers."""
        return self._column("label_coverage")

    def read(self, indices: Indices) -> NDArray[np.uint8]:
        """Pixels of some patches, (n, P, P, 3) uint8, in the order asked for.

        Raises
        ------
        StoreError
            If a shard is missing or damaged.
        IndexError
            If there is no such patch.
        """
        return np.asarray(self.read_async(indices).result())

    def read_async(self, indices: Indices) -> PendingRead:
        """Start reading; ``.result()`` waits for the pixels."""
        array = self._array("patches")
        if isinstance(indices, slice):
            start, stop, step = indices.indices(len(self))
            if step == 1:
                return PendingRead(array[start : max(start, stop)].read(), self)
            indices = np.arange(start, stop, step)
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"{self.path.name} has {len(self)} patches")
        return PendingRead(array[wanted].read(), self)

    def iter_batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All patches in slide order, (<= size, P, P, 3) uint8 at a time, read one ahead."""
        starts = range(0, len(self), size)
        pending = [self.read_async(slice(s, s + size)) for s in starts[:1]]
        for start in starts:
            current = pending.pop()
            if start + size < len(self):
                pending.append(self.read_async(slice(start + size, start + 2 * size)))
            yield current.result()


class PendingRead:
    """Patches on their way."""

    def __init__(self, future: Any, store: PatchStore) -> None:
        self._future = future
        self._store = store

    def result(self) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8; waits for it."""
        try:
            return np.asarray(self._future.result())
        except ValueError:
            raise self._store._damaged("patches") from None


_CONTEXTS: dict[int, Any] = {}


def _context() -> Any:
    """One TensorStore context a process: thread pools are shared and never cross a fork."""
    pid = os.getpid()
    if pid not in _CONTEXTS:
        _CONTEXTS.clear()
        _CONTEXTS[pid] = ts.Context({})
    return _CONTEXTS[pid]
