"""Writing a patch store: whole shards, each written once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.annotations.labels import UNLABELLED
from pathology_scaat.artifacts.atomic import PARTIAL_MARK
from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.artifacts.fingerprint import versions
from pathology_scaat.errors import StoreError
from pathology_scaat.patches.compression import EncodedPatch, PatchEncoder
from pathology_scaat.patches.config import DEFAULT_SHARD_BYTES
from pathology_scaat.patches.jpeg_chunk import DECODED_CODEC
from pathology_scaat.patches.publish import new_store
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.patches.shard_writer import ShardWriter
from pathology_scaat.patches.zarr_layout import (
    GROUP_FILE,
    LARGE_SHARDS,
    Codec,
    pixels_metadata,
    write_array_metadata,
    write_column,
    write_group,
)
from pathology_scaat.system.closing import Closing
from pathology_scaat.system.locks import describe_os_error


class PatchStoreWriter(Closing):
    """Writes the pixels of one slide, in order, into a folder that is not yet published.

    They are patches, or with ``as_blocks`` the blocks that overlapping patches share; both are
    called items here. The greatest possible number of them is given beforehand (unreadable ones
    are known only afterwards); :meth:`finish` sets the true one. :meth:`encode` may be called by
    several threads at once, :meth:`append_encoded` by one, in the order of the items. On one thread
    :meth:`append` does both. With ``slide_jpeg`` items may also be the slide's own JPEG tiles
    (:meth:`append_stream`); the others are compressed as :mod:`pathology_scaat.patches.jpeg_chunk`
    says, whatever ``codec`` is.
    """

    def __init__(
        self,
        path: Path,
        max_items: int,
        side_px: int,
        *,
        as_blocks: bool = False,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        codec: Codec = "lz4",
        slide_jpeg: bool = False,
    ) -> None:
        self._path = path
        self._name = path.name.partition(PARTIAL_MARK)[0]
        self._n = max_items
        self._array = "blocks" if as_blocks else "patches"
        per_shard = max(1, shard_bytes // (side_px**2 * 3))
        item = "block" if as_blocks else "patch"
        self._metadata = pixels_metadata(
            item, max_items, side_px, per_shard, None if slide_jpeg else codec
        )
        path.mkdir(parents=True, exist_ok=True)
        self._encoder = PatchEncoder(side_px, DECODED_CODEC if slide_jpeg else codec)
        chunk_shape = self._metadata["chunk_grid"]["configuration"]["chunk_shape"]
        self._shards = ShardWriter(path / self._array, chunk_shape[0])

    @property
    def n_written(self) -> int:
        return self._shards.n_chunks

    def encode(self, patch: NDArray[np.uint8]) -> EncodedPatch:
        """Compress one patch, (P, P, 3) uint8, on whatever thread."""
        return self._encoder.encode(patch)

    def append_encoded(self, encoded: EncodedPatch) -> None:
        """Write what :meth:`encode` returned for the next patch.

        Raises
        ------
        StoreError
            If it cannot be written, or there are more than were announced.
        """
        self._check_announced()
        try:
            self._shards.append(encoded)
        except OSError as error:
            raise self._unwritable(error) from None
        self._encoder.release(encoded)

    def append(self, patch: NDArray[np.uint8]) -> int:
        """Add one patch, (P, P, 3) uint8; how many bytes it takes.

        On one thread this is the way: a patch is compressed where the disk will fetch it, and
        not copied there.

        Raises
        ------
        StoreError
            If it cannot be written, or there are more than were announced.
        """
        self._check_announced()
        patch = np.ascontiguousarray(patch, dtype=np.uint8)
        try:
            room = self._shards.room(self._encoder.most_bytes)
            if room is not None:
                length = self._encoder.encode_into(patch, room)
                self._shards.append_from_room(length)
                return length
        except OSError as error:
            raise self._unwritable(error) from None
        encoded = self.encode(patch)
        self.append_encoded(encoded)
        return encoded[1]

    def append_stream(self, stream: bytes) -> int:
        """Add one item as a whole JPEG stream, with ``slide_jpeg``; how many bytes it takes.

        Raises
        ------
        StoreError
            If it cannot be written, or there are more than were announced.
        """
        self._check_announced()
        check = google_crc32c.value(stream).to_bytes(4, "little")
        try:
            self._shards.append((stream + check, len(stream) + 4))
        except OSError as error:
            raise self._unwritable(error) from None
        return len(stream) + 4

    def _check_announced(self) -> None:
        if self.n_written >= self._n:
            raise StoreError(self._name, f"holds more {self._array} than were announced")

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            self._name,
            f"cannot be written ({describe_os_error(error)})",
            "check free disk space and permissions",
        )

    def close(self) -> None:
        """Let go of everything; after it nothing touches the folder any more."""
        self._shards.close()

    def finish(
        self,
        meta: PatchStoreMeta,
        *,
        grid_index: NDArray[np.integer],
        tissue_fraction: NDArray[np.floating],
        label: NDArray[np.integer],
        label_coverage: NDArray[np.floating],
        patch_blocks: NDArray[np.integer] | None = None,
    ) -> None:
        """Write the columns and, last, the group metadata that makes it a store.

        Columns are as in :func:`write_patch_table`. ``patch_blocks``, (N, k * k), names each
        patch's blocks where blocks were written.

        Raises
        ------
        StoreError
            If a file cannot be written, or what was written is not the patches' number or blocks.
        """
        try:
            self._shards.finish()
        except OSError as error:
            raise self._unwritable(error) from None
        n = len(grid_index)
        columns: dict[str, tuple[NDArray[Any], str]] = {}
        if patch_blocks is not None:
            columns["patch_blocks"] = (np.asarray(patch_blocks), "int32")
            complete = not patch_blocks.size or (
                int(patch_blocks.min()) >= 0 and int(patch_blocks.max()) < self.n_written
            )
        else:
            complete = n == self.n_written
        if not complete:
            raise StoreError(
                self._name,
                f"holds {self.n_written} {self._array}, which are not those of its {n} patches",
                "tile the slide again",
            )
        self._metadata["shape"][0] = self.n_written
        write_array_metadata(self._path, self._array, self._metadata)
        write_columns(self._path, columns)
        write_patch_table(self._path, meta, grid_index, tissue_fraction, label, label_coverage)
        write_group(self._path, meta.to_attributes())
        checksum_folder(self._path, GROUP_FILE, LARGE_SHARDS)


_NAMES = {
    "origin_px": "axis",
    "grid_index": "axis",
    "label_coverage": "class",
    "patch_blocks": "block",
}


def write_patch_table(
    path: Path,
    meta: PatchStoreMeta,
    grid_index: NDArray[np.integer],
    tissue_fraction: NDArray[np.floating],
    label: NDArray[np.integer],
    label_coverage: NDArray[np.floating],
) -> None:
    """Write where N patches lie, how much of each is tissue, and their labels.

    Parameters
    ----------
    path : Path
        Folder of the store.
    meta : PatchStoreMeta
        Its grid gives the origins, its K class names the columns of the coverage.
    grid_index : (N, 2) int
        Column and row of each patch.
    tissue_fraction : (N,) float
        0 to 1.
    label : (N,) int
        Index into ``meta.class_names``, -1 where undecided.
    label_coverage : (N, K) float
        0 to 1.
    """
    n, k = len(grid_index), len(meta.class_names)
    write_columns(
        path,
        {
            "origin_px": (meta.grid.origins_px(grid_index).reshape(n, 2), "int64"),
            "grid_index": (np.asarray(grid_index).reshape(n, 2), "int32"),
            "tissue_fraction": (np.asarray(tissue_fraction).reshape(n), "float32"),
        },
    )
    write_label_columns(
        path, np.asarray(label).reshape(n), np.asarray(label_coverage).reshape(n, k)
    )


def write_label_columns(
    path: Path, label: NDArray[np.integer], label_coverage: NDArray[np.floating]
) -> None:
    """Write the labels (N,) of patches and how far each class covers them (N, K)."""
    write_columns(path, {"label": (label, "int16"), "label_coverage": (label_coverage, "float32")})


def write_columns(path: Path, columns: dict[str, tuple[NDArray[Any], str]]) -> None:
    """Write small arrays beside the patches.

    ``columns`` maps a name to values, (N,) or (N, k), and their dtype in the file.
    """
    for name, (values, data_type) in columns.items():
        names = ["patch", _NAMES[name]] if values.ndim == 2 else ["patch"]
        write_column(path, name, values, data_type, names)


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
        The store's folder or fsspec URL; one that is there is replaced.
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
        new_store(path) as partial,
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
