"""Reading a patch store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.urls import is_url
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.patches.block_reader import BlockReader
from pathology_scaat.patches.byte_store import byte_store_of
from pathology_scaat.patches.jpeg_chunk import is_jpeg
from pathology_scaat.patches.labelled import patches_to_xarray, picked
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.patches.shard_reader import ShardReader, read_column
from pathology_scaat.patches.zarr_layout import read_group
from pathology_scaat.system.representation import Described, shrunk, tiled

Indices = Sequence[int] | NDArray[np.integer] | slice


class PatchStore(Described):
    """The patches of one slide, N of them in slide order (row by row).

    Opening reads only the metadata; a pickled store is a path, opened anew where it arrives.
    Pixels are read by threads that begin when they are needed, and anew in a process that was
    forked: a store may be used on both sides of a fork, though not while a read is under way.

    Parameters
    ----------
    path : str or Path
        The store's folder, or its fsspec URL.

    Raises
    ------
    StoreError
        If it is missing, partial or of another schema.
    AddressError
        If it is a URL that may not be opened.

    Examples
    --------
    >>> import tempfile, numpy as np, pathology_scaat as ps
    >>> from pathology_scaat.geometry import PatchGrid, SizePx
    >>> from pathology_scaat.patches import PatchStoreMeta, write_patch_store
    >>> from pathology_scaat.patches.schema import SlideGeometry
    >>> grid = PatchGrid(0.0, 0.0, 1.0, 32, 32, 2, 1)
    >>> meta = PatchStoreMeta(
    ...     slide_id="a", slide_fingerprint="0" * 64, fingerprint="1" * 64,
    ...     slide=SlideGeometry(SizePx(64, 32), 0.5, "slide"), grid=grid, requested_mpp=0.5,
    ...     effective_mpp=0.5, level_read=0, class_names=("Normal", "Tumor"),
    ... )
    >>> path = tempfile.mkdtemp() + "/a.zarr"
    >>> write_patch_store(path, meta, np.zeros((2, 32, 32, 3), np.uint8),
    ...                   grid_index=grid.all_indices(), label=np.array([0, 1]))
    >>> store = ps.PatchStore(path)
    >>> store
    <PatchStore 'a': patches 2; size 32 px at 0.5 µm/px; classes Normal, Tumor; labelled 2>
    >>> store.read([1]).shape
    (1, 32, 32, 3)
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Path | str = str(path) if is_url(path) else Path(path)
        self._byte_store = byte_store_of(path)
        self.meta = PatchStoreMeta.from_attributes(
            read_group(self._byte_store), self._byte_store.name
        )

    def _title(self) -> str:
        return self.meta.slide_id

    def _facts(self) -> dict[str, str]:
        return {
            "patches": f"{len(self):,}",
            "size": f"{self.patch_size_px} px at {self.meta.effective_mpp:g} µm/px",
            "classes": ", ".join(self.meta.class_names) or "none",
            "labelled": f"{int((self.labels >= 0).sum()):,}",
        }

    def _thumbnail(self) -> NDArray[np.uint8] | None:
        if not len(self) or not self.meta.has_pixels:
            return None
        spread: NDArray[np.int64] = np.unique(np.linspace(0, len(self) - 1, 16).astype(np.int64))
        patches = self.read(spread)
        return tiled(np.stack([shrunk(p, 64) for p in patches])) if len(patches) else None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._byte_store.name

    def _damaged(self, name: str) -> StoreError:
        return StoreError(
            self.name, f"its array '{name}' is damaged", "make it again with 'scaat tile'"
        )

    def _column(self, name: str) -> NDArray[Any]:
        try:
            return read_column(self._byte_store, name)
        except _DAMAGE:
            raise self._damaged(name) from None

    @cached_property
    def _pixels(self) -> ShardReader | BlockReader:
        if not self.meta.has_pixels:
            raise StoreError(
                self.name,
                "holds no pixels: a model was applied, which reads them from the slide",
                "make it with 'scaat tile', or run with --keep-patches",
            )
        block_px = self.meta.block_size_px
        try:
            if block_px is None:
                return ShardReader(self._byte_store, "patches", self.patch_size_px)
            blocks = ShardReader(self._byte_store, "blocks", block_px)
            return BlockReader(blocks, self._column("patch_blocks"), self.patch_size_px)
        except _DAMAGE:
            raise self._damaged("patches" if block_px is None else "blocks") from None

    def __len__(self) -> int:
        return self._pixels.length if self.meta.has_pixels else len(self.grid_index)

    @property
    def patches(self) -> Any:
        """All pixels as a lazy Dask array, (N, P, P, 3) uint8."""
        import dask.array as da  # imported late: it takes half a second

        side, at_once = self.patch_size_px, max(1, (32 << 20) // (3 * self.patch_size_px**2))
        return da.from_array(
            _LazyPatches(self), chunks=(at_once, side, side, 3), name=False, asarray=False
        )

    def to_xarray(self) -> Any:
        """The store as a lazy ``xarray.Dataset`` (needs the extra ``xarray``).

        ``patches`` (patch, row_px, column_px, rgb) uint8 is read when it is used; along ``patch``
        stand the top-left corner in µm (``x``, ``y``) and in level-0 pixels (``x_px``, ``y_px``).

        Raises
        ------
        UsageError
            If xarray is not installed.
        """
        return patches_to_xarray(self)

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

        Parameters
        ----------
        indices : (n,) int or slice
            Negative numbers count from the end.

        Raises
        ------
        StoreError
            If the store holds no pixels, or a shard is missing or damaged.
        IndexError
            If there is no such patch.
        """
        return np.asarray(self.read_async(indices).result())

    def read_async(self, indices: Indices) -> PendingRead:
        """Start reading; ``.result()`` waits for the pixels, (n, P, P, 3) uint8.

        Arguments and errors are those of :meth:`read`; damage is met by ``.result()``.
        """
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        side = self.patch_size_px
        out = np.empty((len(wanted), side, side, 3), dtype=np.uint8)
        return self.read_into(wanted, out, np.arange(len(wanted)))

    def read_into(
        self, indices: NDArray[np.integer], out: NDArray[np.uint8], rows: NDArray[np.integer]
    ) -> PendingRead:
        """Start reading some patches into an array of the caller's.

        Parameters
        ----------
        indices : (n,) int
            Negative numbers count from the end.
        out : (m, P, P, 3) uint8
            C-contiguous; ``.result()`` of what is returned gives it back.
        rows : (n,) int
            Where each patch goes in ``out``.

        Raises
        ------
        StoreError
            If the store holds no pixels; ``.result()`` raises it for a missing or damaged shard.
        IndexError
            If there is no such patch.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"{self.name} has {len(self)} patches")
        tasks = self._pixels.read(wanted, out, np.asarray(rows, dtype=np.int64))
        return PendingRead(tasks, out, self)

    def jpeg_streams(self, indices: Indices) -> list[bytes | None]:
        """Some patches as the slide's own JPEG tiles, for decoders of your own (a GPU's).

        Parameters
        ----------
        indices : (n,) int or slice

        Returns
        -------
        list of bytes or None
            Whole JPEG streams, in the order asked for; None for a patch that is stored otherwise,
            which :meth:`read` gives.

        Raises
        ------
        UsageError
            If no patch of this store is one JPEG tile.
        StoreError
            If a shard is missing or damaged.
        IndexError
            If there is no such patch.
        """
        if self.meta.slide_jpeg is None or self.meta.block_size_px is not None:
            raise UsageError(
                self.name,
                "does not hold each patch as one JPEG tile of the slide",
                "tile with --pixels slide-jpeg and the patch size of the slide's tiles",
            )
        reader = self._pixels
        wanted = np.arange(len(self))[indices].reshape(-1).tolist()
        if not isinstance(reader, ShardReader):
            raise self._damaged("patches")
        try:
            chunks = reader.chunks(wanted)
        except _DAMAGE:
            raise self._damaged(reader.array) from None
        return [chunk if is_jpeg(chunk) else None for chunk in chunks]

    def iter_batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All patches in slide order, (n, P, P, 3) uint8 at a time, n <= ``size``, read one ahead.

        Raises
        ------
        StoreError
            If the store holds no pixels, or a shard is missing or damaged.
        """
        starts = range(0, len(self), size)
        pending = [self.read_async(slice(s, s + size)) for s in starts[:1]]
        for start in starts:
            current = pending.pop()
            if start + size < len(self):
                pending.append(self.read_async(slice(start + size, start + 2 * size)))
            yield current.result()


class _LazyPatches:
    """A store as the array-like that ``dask.array.from_array`` slices."""

    def __init__(self, store: PatchStore) -> None:
        side = store.patch_size_px
        self.shape = (len(store), side, side, 3)
        self.ndim = 4
        self.dtype = np.dtype(np.uint8)
        self._store = store

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[np.uint8]:
        return picked(self._store.read, key)


class PendingRead:
    """Patches on their way into an array, (m, P, P, 3) uint8."""

    def __init__(
        self, tasks: list[Future[None]], out: NDArray[np.uint8], store: PatchStore
    ) -> None:
        self._tasks, self._out, self._store = tasks, out, store

    def result(self) -> NDArray[np.uint8]:
        """The whole array that they are read into, (m, P, P, 3) uint8; waits for them.

        Raises
        ------
        StoreError
            If a shard is missing or damaged.
        """
        try:
            for task in self._tasks:
                task.result()
        except _DAMAGE:
            raise self._store._damaged(self._store._pixels.array) from None
        return self._out


_DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RuntimeError)
"""What reading bytes that are not what they should be may raise."""
