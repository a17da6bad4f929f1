"""Writing a saliency store, shard by shard in slide order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ZstdCodec

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.artifacts.zarr_folder import UnfinishedFolder
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.patches.schema import ATTRIBUTES_KEY
from pathology_scaat.saliency.schema import (
    MAIN_ARRAY,
    UNLIKE_ARRAY,
    SaliencyStoreMeta,
)

DEFAULT_SCALE = 1024.0
DEFAULT_PATCHES_PER_SHARD = 1024
FLOAT16_MAX = 65504.0
_TARGET_CHUNK_BYTES = 128 * 1024


class SaliencyStoreWriter:
    """Writes a saliency store in slide order; memory is bounded by one shard.

    Parameters
    ----------
    path : Path
        Folder that is made; publish it with :func:`~pathology_scaat.artifacts.atomic.atomic_path`.
    meta : SaliencyStoreMeta
    n_patches : int
    patches_per_shard : int

    Attributes
    ----------
    n_clipped : int
        Values beyond float16's range, cut to its largest number.
    n_values : int
        All values of the maps so far.
    fitting_scale : float
        The largest power of two by which all values so far can be scaled without being cut.
    columns : dict of str to ndarray, (N, ...) float
        Further small arrays that :meth:`close` writes, by name.

    Raises
    ------
    UsageError
        If the stride does not divide the patch size.
    """

    def __init__(
        self,
        path: Path,
        meta: SaliencyStoreMeta,
        n_patches: int,
        patches_per_shard: int = DEFAULT_PATCHES_PER_SHARD,
    ) -> None:
        if meta.grid.patch_size_px % meta.stride_px:
            raise UsageError(
                "stride_px",
                f"{meta.stride_px} does not divide the patch size {meta.grid.patch_size_px}",
                "use a divisor such as 1, 2 or 4",
            )
        self.meta = meta
        self._path = path
        self.side = meta.grid.patch_size_px // meta.stride_px
        self.scale = float(meta.parameters.get("saliency_scale", DEFAULT_SCALE))
        self.n_patches = n_patches
        self.n_clipped = self.n_values = 0
        self._largest = 0.0
        self.columns: dict[str, NDArray[np.floating[Any]]] = {}
        self._written = 0
        # Whole chunks of about 128 KiB, whole chunks in a shard.
        per_chunk = max(1, min(_TARGET_CHUNK_BYTES // (2 * self.side**2), patches_per_shard))
        self._shard = math.ceil(min(patches_per_shard, max(n_patches, 1)) / per_chunk) * per_chunk
        attributes = meta.to_attributes()
        attributes["parameters"] = {**meta.parameters, "saliency_scale": self.scale}
        self._group = zarr.create_group(
            store=UnfinishedFolder(path), zarr_format=3, attributes={ATTRIBUTES_KEY: attributes}
        )
        self.names = tuple(dict.fromkeys([MAIN_ARRAY, *meta.arrays.values()]))
        shape = (self._shard, self.side, self.side)
        self._saliency = {
            name: self._group.create_array(
                name,
                shape=(n_patches, self.side, self.side),
                dtype="float16",
                chunks=(per_chunk, self.side, self.side),
                shards=shape,
                serializer=BytesCodec(endian="little"),
                compressors=[ZstdCodec(level=1, checksum=True)],
                fill_value=0,
            )
            for name in self.names
        }
        self._buffer = {name: np.zeros(shape, dtype=np.float16) for name in self.names}
        self._filled = 0
        self._probability = np.zeros((n_patches, len(meta.class_names)), dtype=np.float32)
        self._unlike: NDArray[np.float32] | None = None

    def append(
        self,
        saliency: NDArray[np.floating[Any]],
        probability: NDArray[np.floating[Any]],
        others: Mapping[str, NDArray[np.floating[Any]]] | None = None,
        unlike: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Add the next patches: (n, h, h) attribution in true units and (n, K) probability.

        ``others`` are the maps of further arrays by their name, ``unlike`` percentiles (n,).

        Raises
        ------
        UsageError
            If the shapes do not fit the meta data, or there are more patches than were announced.
        """
        count = len(saliency)
        maps = {MAIN_ARRAY: saliency, **(others or {})}
        if set(maps) != set(self.names):
            raise UsageError("saliency", f"is due for {', '.join(self.names)}", "")
        if saliency.shape[1:] != (self.side, self.side) or len(probability) != count:
            raise UsageError(
                "saliency",
                f"has shape {saliency.shape} where ({count}, {self.side}, {self.side}) is due",
                "",
            )
        if self._written + self._filled + count > self.n_patches:
            raise UsageError("saliency", "has more patches than the store was made for", "")
        start = self._written + self._filled
        self._probability[start : start + count] = probability
        if unlike is not None:
            if self._unlike is None:
                self._unlike = np.zeros(self.n_patches, dtype=np.float32)
            self._unlike[start : start + count] = unlike
        scaled = {name: self._scaled(values) for name, values in maps.items()}
        done = 0
        while done < count:
            take = min(count - done, self._shard - self._filled)
            for name, values in scaled.items():
                self._buffer[name][self._filled : self._filled + take] = values[done : done + take]
            self._filled += take
            done += take
            if self._filled == self._shard:
                self._flush()

    def _scaled(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """As stored: scaled, and cut to what float16 holds."""
        scaled = np.asarray(values, dtype=np.float32) * np.float32(self.scale)
        self.n_clipped += int(np.count_nonzero(scaled > FLOAT16_MAX))
        self.n_values += scaled.size
        self._largest = max(self._largest, float(scaled.max(initial=0.0)))
        np.minimum(scaled, FLOAT16_MAX, out=scaled)
        return scaled

    @property
    def fitting_scale(self) -> float:
        if self._largest <= FLOAT16_MAX:
            return self.scale
        return 2.0 ** math.floor(math.log2(self.scale * FLOAT16_MAX / self._largest))

    def _flush(self) -> None:
        if self._filled:
            stop = self._written + self._filled
            for name, array in self._saliency.items():
                array[self._written : stop] = self._buffer[name][: self._filled]
            self._written, self._filled = stop, 0

    def close(self, origins_px: NDArray[np.integer], grid_index: NDArray[np.integer]) -> None:
        """Write what is left and the small arrays, and the checksum of the store.

        Parameters
        ----------
        origins_px : (N, 2) int
            Level-0 top-left corners, x, y.
        grid_index : (N, 2) int
            Column, row.

        Raises
        ------
        StoreError
            If fewer patches came than were announced.
        """
        self._flush()
        if self._written != self.n_patches:
            raise StoreError(
                "saliency store",
                f"got {self._written} of {self.n_patches} patches",
                "report this as a defect",
            )
        columns: list[tuple[str, Any, str]] = [
            ("probability", self._probability, "float32"),
            ("origin_px", origins_px, "int64"),
            ("grid_index", grid_index, "int32"),
        ]
        if self._unlike is not None:
            columns.append((UNLIKE_ARRAY, self._unlike, "float32"))
        columns += [(name, column, "float32") for name, column in self.columns.items()]
        for name, values, dtype in columns:
            data = np.ascontiguousarray(values, dtype=dtype)
            self._group.create_array(
                name,
                data=data,
                chunks=(max(len(data), 1), *data.shape[1:]),
                serializer=BytesCodec(endian="little"),
                compressors=[ZstdCodec(level=1, checksum=True)],
            )
        checksum_folder(self._path, "zarr.json")


@contextmanager
def saliency_store_writer(
    path: Path,
    meta: SaliencyStoreMeta,
    n_patches: int,
    origins_px: NDArray[np.integer],
    grid_index: NDArray[np.integer],
    patches_per_shard: int = DEFAULT_PATCHES_PER_SHARD,
) -> Iterator[SaliencyStoreWriter]:
    """A writer whose store appears at ``path`` only when the block ends well.

    Parameters
    ----------
    path : Path
    meta : SaliencyStoreMeta
    n_patches : int
        N, of which all must be appended.
    origins_px : (N, 2) int
        Level-0 top-left corners, x, y.
    grid_index : (N, 2) int
        Column, row.
    patches_per_shard : int
    """
    with atomic_path(path) as partial:
        writer = SaliencyStoreWriter(partial, meta, n_patches, patches_per_shard)
        yield writer
        writer.close(origins_px, grid_index)


def write_saliency_store(
    path: Path,
    meta: SaliencyStoreMeta,
    saliency: NDArray[np.floating[Any]],
    probability: NDArray[np.floating[Any]],
    origins_px: NDArray[np.integer],
    grid_index: NDArray[np.integer],
    *,
    others: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    unlike: NDArray[np.floating[Any]] | None = None,
) -> None:
    """Write a whole saliency store from arrays, atomically.

    Parameters
    ----------
    path : Path
        Folder of the store (``<slide_id>.zarr``).
    meta : SaliencyStoreMeta
        ``parameters["saliency_scale"]`` (default 1024) is what stored values are multiplied by.
    saliency : ndarray, (N, h, h)
        Attribution in true units, >= 0, with ``h = patch_size_px / stride_px``.
    probability : ndarray, (N, K)
    origins_px : ndarray, (N, 2)
        Level-0 top-left corners.
    grid_index : ndarray, (N, 2)
    others : mapping of name to ndarray, optional
        Saliency of further arrays that ``meta.arrays`` names.
    unlike : ndarray, (N,), optional
        How unlike the training patches, percentile.

    Raises
    ------
    UsageError
        If the shapes do not fit the meta data.
    """
    with saliency_store_writer(path, meta, len(saliency), origins_px, grid_index) as writer:
        writer.append(saliency, probability, others, unlike)
