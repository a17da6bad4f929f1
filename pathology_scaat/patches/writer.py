"""Writing a patch store: whole shards, each written once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.patches.config import DEFAULT_SHARD_BYTES
from pathology_scaat.patches.layout import (
    Codec,
    column_metadata,
    create_array,
    patches_metadata,
    set_length,
    write_group,
)
from pathology_scaat.patches.schema import UNLABELLED, PatchStoreMeta
from pathology_scaat.provenance import PARTIAL_MARK, atomic_path, versions


class PatchStoreWriter:
    """Writes the patches of one slide, in order, into a folder that is not yet published.

    The greatest possible number of patches is given beforehand (unreadable ones are known
    only afterwards); :meth:`finish` sets the true one. Patches are gathered into whole
    shards; a shard is handed to TensorStore, which compresses and writes it while the next
    one is gathered.
    """

    def __init__(
        self,
        path: Path,
        max_patches: int,
        patch_size_px: int,
        *,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        codec: Codec = "lz4",
    ) -> None:
        self._path = path
        self._name = path.name.partition(PARTIAL_MARK)[0]
        self._n = max_patches
        self._side = patch_size_px
        per_shard = max(1, shard_bytes // (patch_size_px**2 * 3))
        metadata = patches_metadata(max_patches, patch_size_px, per_shard, codec)
        self._per_shard: int = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        path.mkdir(parents=True, exist_ok=True)
        self._array = create_array(path, "patches", metadata)
        self._done = 0
        self._filled = 0
        self._shard = self._new_shard()
        self._spare: NDArray[np.uint8] | None = None
        self._pending: Any = None

    def _new_shard(self) -> NDArray[np.uint8]:
        count = min(self._per_shard, self._n)
        return np.empty((count, self._side, self._side, 3), dtype=np.uint8)

    @property
    def n_written(self) -> int:
        return self._done + self._filled

    def next_slot(self) -> NDArray[np.uint8]:
        """Where the next patch goes, (P, P, 3) uint8, to be filled before :meth:`advance`."""
        if self.n_written >= self._n:
            raise StoreError(self._name, "holds more patches than were announced")
        slot: NDArray[np.uint8] = self._shard[self._filled]
        return slot

    def advance(self) -> None:
        """The slot is filled."""
        self._filled += 1
        if self._filled == len(self._shard) or self.n_written == self._n:
            self._flush()

    def append(self, patch: NDArray[np.uint8]) -> None:
        """Add one patch, (P, P, 3) uint8."""
        self.next_slot()[...] = patch
        self.advance()

    def close(self) -> None:
        """Wait for what is being written; after it nothing touches the folder any more."""
        with suppress(StoreError):
            self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _flush(self) -> None:
        self._wait()
        filled = self._shard[: self._filled]
        self._pending = self._array[self._done : self._done + self._filled].write(filled)
        self._done += self._filled
        self._filled = 0
        # Two buffers in turn: TensorStore may still be reading the one just given to it.
        if self._done < self._n:
            spare = self._new_shard() if self._spare is None else self._spare
            self._shard, self._spare = spare, self._shard

    def _wait(self) -> None:
        if self._pending is not None:
            try:
                self._pending.result()
            except ValueError:
                raise StoreError(
                    self._name, "cannot be written", "check free disk space and permissions"
                ) from None
            finally:
                self._pending = None

    def finish(
        self,
        meta: PatchStoreMeta,
        *,
        grid_index: NDArray[np.integer],
        tissue_fraction: NDArray[np.floating],
        label: NDArray[np.integer],
        label_coverage: NDArray[np.floating],
    ) -> None:
        """Write the columns and, last, the group metadata that makes it a store."""
        if self._filled:
            self._flush()
        self._wait()
        n, k = self._done, len(meta.class_names)
        if n != len(grid_index):
            raise StoreError(
                self._name,
                f"holds {n} patches where {len(grid_index)} were expected",
                "tile the slide again",
            )
        set_length(self._path, "patches", n)
        write_columns(
            self._path,
            {
                "origin_px": (meta.grid.origins_px(grid_index).reshape(n, 2), "int64"),
                "grid_index": (np.asarray(grid_index).reshape(n, 2), "int32"),
                "tissue_fraction": (np.asarray(tissue_fraction).reshape(n), "float32"),
                "label": (np.asarray(label).reshape(n), "int16"),
                "label_coverage": (np.asarray(label_coverage).reshape(n, k), "float32"),
            },
        )
        write_group(self._path, meta.to_attributes())


_NAMES = {"origin_px": "axis", "grid_index": "axis", "label_coverage": "class"}


def write_columns(path: Path, columns: dict[str, tuple[NDArray[Any], str]]) -> None:
    """Write small arrays beside the patches; ``columns`` maps a name to values and dtype."""
    for name, (values, data_type) in columns.items():
        names = ["patch", _NAMES[name]] if values.ndim == 2 else ["patch"]
        array = create_array(path, name, column_metadata(values.shape, data_type, names))
        if values.size:
            array[...].write(np.ascontiguousarray(values, dtype=data_type)).result()


def write_patch_store(
    path: str | Path,
    meta: PatchStoreMeta,
    patches: Iterable[NDArray[np.uint8]] | NDArray[np.uint8],
    *,
    grid_index: NDArray[np.integer],
    label: NDArray[np.integer] | None = None,
    tissue_fraction: NDArray[np.floating] | None = None,
    label_coverage: NDArray[np.floating] | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    codec: Codec = "lz4",
) -> None:
    """Make a patch store out of patches at hand; it appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The store's folder; one that is there is replaced.
    meta : PatchStoreMeta
        Metadata; missing versions are filled in.
    patches : iterable of (P, P, 3) uint8, or (N, P, P, 3) uint8
        Pixels, in the order of ``grid_index``.
    grid_index : (N, 2) int
        Column and row of each patch in ``meta.grid``; origins follow from it.
    label : (N,) int, optional
        Index into ``meta.class_names``, -1 (default) where undecided.
    tissue_fraction : (N,) float, optional
        0 to 1, default 1.
    label_coverage : (N, K) float, optional
        Share of each class; default 1 for the label's class, else 0.

    Raises
    ------
    StoreError
        If there are more or fewer patches than ``grid_index`` has rows.
    """
    index = np.asarray(grid_index).reshape(-1, 2)
    n, k = len(index), len(meta.class_names)
    labels = np.full(n, UNLABELLED) if label is None else np.asarray(label)
    if label_coverage is None:
        coverage = (labels[:, None] == np.arange(k)[None, :]).astype(np.float32)
    else:
        coverage = np.asarray(label_coverage, dtype=np.float32)
    if not meta.versions:
        meta = replace(meta, versions=versions())
    with (
        atomic_path(Path(path)) as partial,
        PatchStoreWriter(
            partial, n, meta.grid.patch_size_px, shard_bytes=shard_bytes, codec=codec
        ) as writer,
    ):
        for patch in patches:
            writer.append(patch)
        writer.finish(
            meta,
            grid_index=index,
            tissue_fraction=np.ones(n) if tissue_fraction is None else tissue_fraction,
            label=labels,
            label_coverage=coverage,
        )
