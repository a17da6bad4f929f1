"""The saliency store: written shard by shard in slide order, read in random batches.

Saliency is stored as ``value * saliency_scale`` in float16. The scale is a parameter of the
run, the same for every patch and slide (default 1024), so that the small gradients of a
robust model do not vanish in float16 (its smallest step is 6e-8) and maps of different slides
stay comparable. :meth:`SaliencyStore.read_saliency` divides it out again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ZstdCodec

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.artifacts.zarr_folder import UnfinishedFolder, file_kvstore
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.patches.schema import ATTRIBUTES_KEY
from pathology_scaat.saliency.labelled import saliency_to_dask, saliency_to_xarray
from pathology_scaat.saliency.schema import (
    CONTRIBUTION_ARRAY,
    MAIN_ARRAY,
    UNLIKE_ARRAY,
    SaliencyStoreMeta,
)
from pathology_scaat.system.representation import Described, shown_maps

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
    columns : dict of str to ndarray, (N, ...) float
        Further small arrays that :meth:`close` writes, by name.
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
        self.n_clipped = 0
        self.columns: dict[str, NDArray[np.floating[Any]]] = {}
        self._written = 0
        # Whole chunks of about 128 KiB, whole chunks in a shard.
        per_chunk = max(1, min(_TARGET_CHUNK_BYTES // (2 * self.side**2), patches_per_shard))
        self._shard = math.ceil(min(patches_per_shard, max(n_patches, 1)) / per_chunk) * per_chunk
        self._group = zarr.create_group(store=UnfinishedFolder(path), zarr_format=3)
        attributes = meta.to_attributes()
        attributes["parameters"] = {**meta.parameters, "saliency_scale": self.scale}
        self._group.attrs[ATTRIBUTES_KEY] = attributes
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
        np.minimum(scaled, FLOAT16_MAX, out=scaled)
        return scaled

    def _flush(self) -> None:
        if self._filled:
            stop = self._written + self._filled
            for name, array in self._saliency.items():
                array[self._written : stop] = self._buffer[name][: self._filled]
            self._written, self._filled = stop, 0

    def close(self, origins_px: NDArray[np.integer], grid_index: NDArray[np.integer]) -> None:
        """Write what is left and the small arrays, and the checksum of the store."""
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
    """A writer whose store appears at ``path`` only when the block ends well."""
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


def _open_array(path: Path) -> ts.TensorStore:
    return ts.open(
        {"driver": "zarr3", "kvstore": file_kvstore(path.resolve())},
        open=True,
        read=True,
    ).result()


class SaliencyStore(Described):
    """A saliency store, opened for reading; the large array is read lazily by TensorStore.

    Parameters
    ----------
    path : str or Path
        Folder of the store.

    Raises
    ------
    StoreError
        If it is missing, partial or of another schema.

    Examples
    --------
    With ``out`` the folder of a run:

    >>> import pathology_scaat as ps
    >>> store = ps.SaliencyStore(out / "saliency" / "s1.zarr")
    >>> store
    <SaliencyStore 's1': patches 12; classes normal, tumour; explained tumour by gradient>
    >>> store.read_saliency(slice(0, 2)).shape[0]
    2
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            group = zarr.open_group(self.path, mode="r", zarr_format=3)
            attributes = group.attrs[ATTRIBUTES_KEY]
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise StoreError(
                self.path.name, "is not a saliency store", "make it with 'scaat explain'"
            ) from None
        if not isinstance(attributes, dict):
            raise StoreError(
                self.path.name, "has damaged attributes", "make it again with 'scaat explain'"
            )
        self.meta = SaliencyStoreMeta.from_attributes(attributes, self.path.name)

    def _title(self) -> str:
        return self.meta.slide_id

    def _facts(self) -> dict[str, str]:
        return {
            "patches": f"{len(self):,}",
            "classes": ", ".join(self.meta.class_names),
            "explained": f"{self.meta.target_class} by {self.meta.method}",
        }

    def _thumbnail(self) -> NDArray[np.uint8] | None:
        return shown_maps(self.read_saliency, len(self))

    def _small(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(_open_array(self.path / name).read().result())
        except ValueError:
            raise StoreError(
                self.path.name, f"has no readable '{name}'", "make it again with 'scaat explain'"
            ) from None

    @cached_property
    def _arrays(self) -> dict[str, ts.TensorStore]:
        return {}

    def _array(self, name: str) -> ts.TensorStore:
        if name not in self._arrays:
            try:
                self._arrays[name] = _open_array(self.path / name)
            except ValueError:
                raise StoreError(
                    self.path.name,
                    f"has no readable '{name}'",
                    "make it again with 'scaat explain'",
                ) from None
        return self._arrays[name]

    def __len__(self) -> int:
        return int(self._array(MAIN_ARRAY).shape[0])

    @property
    def saliency(self) -> ts.TensorStore:
        """The stored array, (N, h, h) float16, lazily; values are multiplied by ``scale``."""
        return self._array(MAIN_ARRAY)

    @property
    def scale(self) -> float:
        """What stored values are multiplied by."""
        return float(self.meta.parameters.get("saliency_scale", 1.0))

    def read_saliency(
        self, indices: NDArray[np.integer] | slice, class_name: str | None = None
    ) -> NDArray[np.float32]:
        """Attribution in true units, (n, h, h) float32, of some patches.

        ``class_name`` is one of ``meta.targets``; the target class if none is given.
        """
        name = MAIN_ARRAY if class_name is None else self.meta.array_of(class_name)
        try:
            stored = np.asarray(self._array(name)[indices].read().result())
        except ValueError:
            raise StoreError(
                self.path.name, "has damaged values", "make it again with 'scaat explain'"
            ) from None
        return stored.astype(np.float32) / np.float32(self.scale)

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """(N, K) float32, calibrated."""
        return self._small("probability")

    @cached_property
    def contribution(self) -> NDArray[np.float32] | None:
        """(N, K) float32, what each patch adds to the slide's logits; None for patch models."""
        there = (self.path / CONTRIBUTION_ARRAY).is_dir()
        return self._small(CONTRIBUTION_ARRAY) if there else None

    @cached_property
    def unlike(self) -> NDArray[np.float32] | None:
        """(N,) float32: how unlike the training patches, percentile 0 to 100; None if unknown."""
        return self._small(UNLIKE_ARRAY) if (self.path / UNLIKE_ARRAY).is_dir() else None

    @cached_property
    def target_probability(self) -> NDArray[np.float32]:
        """(N,) float32, of the class that is explained."""
        column: NDArray[np.float32] = self.probability[:, self.meta.target_index]
        return column

    @cached_property
    def origins_px(self) -> NDArray[np.int64]:
        """(N, 2) int64 level-0 top-left corners, x, y."""
        return self._small("origin_px")

    @cached_property
    def grid_index(self) -> NDArray[np.int32]:
        """(N, 2) int32 column, row."""
        return self._small("grid_index")

    def to_dask(self, class_name: str | None = None) -> Any:
        """Attribution in true units as a lazy Dask array, (N, h, h) float32."""
        return saliency_to_dask(self, class_name or self.meta.target_class)

    def to_xarray(self) -> Any:
        """The store as a lazy ``xarray.Dataset`` (needs the extra ``xarray``).

        ``saliency`` (patch, row_px, column_px) in true units is read when it is used, and
        ``saliency: CLASS`` for further explained classes; ``probability`` (patch, class).

        Raises
        ------
        UsageError
            If xarray is not installed.
        """
        return saliency_to_xarray(self)
