"""Reading patches from shards, each decompressed straight into the caller's batch.

The store is plain zarr, and any zarr library reads it. This reader knows that a chunk is a
patch, so that a random batch costs one read and one decompression per patch and no copy of
either: two to three times the speed of the general libraries, and no thread before it is needed.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.patches.byte_store import ByteStore, Data, RangeFile, RemoteByteStore
from pathology_scaat.patches.jpeg_chunk import decode_chunk
from pathology_scaat.patches.zarr_layout import SLIDE_JPEG_CODEC, most_chunk_bytes
from pathology_scaat.system.processes import usable_cores

MAX_METADATA_BYTES = 1 << 24
MAX_CHUNK_VALUES = 1 << 26
MAX_SHARD_CHUNKS = 1 << 23
MAX_SIDE_PX = 1 << 14
_GROUP = 32
"""Patches that a thread reads at a time."""
_MOST_THREADS = 16
_REMOTE_THREADS = 16

_Decode = Callable[[Data, NDArray[np.uint8]], Any]


class LayoutError(ValueError):
    """Bytes that are no array of this package, or damaged."""


def _blosc(data: Data, out: NDArray[np.uint8]) -> Any:
    return imagecodecs.blosc_decode(data, numthreads=1, out=out)  # type: ignore[arg-type]


def _zstd(data: Data, out: NDArray[np.uint8]) -> Any:
    return imagecodecs.zstd_decode(data, out=out)  # type: ignore[arg-type]


_DECODERS: dict[str, _Decode] = {"blosc": _blosc, "zstd": _zstd}


def _slide_jpeg(data: Data, out: NDArray[np.uint8]) -> Any:
    side = math.isqrt(len(out) // 3)
    decode_chunk(data, out.reshape(side, side, 3))
    return out


def _checked(data: Data) -> Data:
    """The data without the CRC32C that follows it."""
    if len(data) < 4:
        raise LayoutError("no checksum")
    body = memoryview(data)[:-4]
    if google_crc32c.value(np.frombuffer(body, np.uint8)) != int.from_bytes(data[-4:], "little"):
        raise LayoutError("checksum")
    return body


def _decompressor(codecs: Any) -> tuple[bool, _Decode]:
    """Whether a checksum follows, and how to decompress; for bytes, one codec, crc32c."""
    names = [codec["name"] for codec in codecs]
    if names[:1] != ["bytes"] or names[1] not in _DECODERS or names[2:] not in ([], ["crc32c"]):
        raise LayoutError("codecs")
    return len(names) == 3, _DECODERS[names[1]]


def _pixel_decompressor(codecs: Any) -> tuple[bool, _Decode]:
    """The same for chunks of pixels, which may be the slide's own JPEG tiles."""
    names = [codec["name"] for codec in codecs]
    if names[:1] == [SLIDE_JPEG_CODEC] and names[1:] in ([], ["crc32c"]):
        return len(names) == 2, _slide_jpeg
    return _decompressor(codecs)


def _decoded(data: Data, checked: bool, decode: _Decode, out: NDArray[np.uint8]) -> None:
    try:
        done = decode(_checked(data) if checked else data, out)
    except RuntimeError:
        raise LayoutError("compression") from None
    if len(done) != len(out):
        raise LayoutError("length")


def array_metadata(store: ByteStore, name: str) -> dict[str, Any]:
    """The zarr metadata of an array. Raises OSError or LayoutError."""
    text = store.read(f"{name}/zarr.json")
    if len(text) > MAX_METADATA_BYTES:
        raise LayoutError("metadata")
    value = json.loads(text)
    if not isinstance(value, dict) or value.get("node_type") != "array":
        raise LayoutError("metadata")
    return value


def read_column(store: ByteStore, name: str) -> NDArray[Any]:
    """All of a small array, of any shape and dtype.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError, KeyError, TypeError
        If it is damaged.
    """
    metadata = array_metadata(store, name)
    shape = tuple(int(n) for n in metadata["shape"])
    chunk_shape = tuple(int(n) for n in metadata["chunk_grid"]["configuration"]["chunk_shape"])
    if len(shape) != len(chunk_shape) or min(*shape, 0) < 0 or min(chunk_shape) < 1:
        raise LayoutError("shape")
    if any(c < n for n, c in zip(shape[1:], chunk_shape[1:], strict=True)):
        raise LayoutError("chunks")
    if math.prod(chunk_shape) > MAX_CHUNK_VALUES:
        raise LayoutError("chunks")
    data_type = np.dtype(str(metadata["data_type"])).newbyteorder("<")
    checked, decode = _decompressor(metadata["codecs"])
    parts = []
    for number in range(-(-shape[0] // chunk_shape[0]) if 0 not in shape else 0):
        data = store.read("/".join([name, "c", str(number), *("0" for _ in shape[1:])]))
        chunk = np.empty(chunk_shape, dtype=data_type)
        _decoded(data, checked, decode, chunk.reshape(-1).view(np.uint8))
        parts.append(chunk)
    whole = np.concatenate(parts) if parts else np.zeros((0, *shape[1:]), dtype=data_type)
    return np.resize(whole, shape) if 0 in shape else whole[tuple(slice(n) for n in shape)]


class ShardReader:
    """Reads items of the array ``patches`` or ``blocks``, by several threads."""

    def __init__(self, store: ByteStore, array: str, side_px: int) -> None:
        metadata = array_metadata(store, array)
        self._store = store
        self.array = array
        self.side_px = side_px
        self.length, *shape = (int(n) for n in metadata["shape"])
        if shape != [side_px, side_px, 3] or side_px > MAX_SIDE_PX:
            raise LayoutError("shape")
        (sharding,) = metadata["codecs"]
        if sharding["name"] != "sharding_indexed":
            raise LayoutError("not sharded")
        inner = sharding["configuration"]
        self._per_shard = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
        whole = inner["chunk_shape"] == [1, *shape] and inner["index_location"] == "end"
        if not whole or metadata["data_type"] != "uint8" or self.length < 0:
            raise LayoutError("layout")
        if not 1 <= self._per_shard <= MAX_SHARD_CHUNKS:
            raise LayoutError("shards")
        self._checked, self._decode = _pixel_decompressor(inner["codecs"])
        self._most = most_chunk_bytes(side_px)
        self._indices: dict[int, NDArray[np.uint64]] = {}
        self._own = threading.local()

    def read(
        self, wanted: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]
    ) -> list[Future[None]]:
        """Begin to read items ``wanted`` into ``out[rows]``; done when all futures are.

        They raise OSError or LayoutError.

        Parameters
        ----------
        wanted : (n,) int64
            Numbers of the items, 0 to ``length`` - 1.
        out : (m, S, S, 3) uint8
            C-contiguous; S is ``side_px``.
        rows : (n,) int64
            Where each goes in ``out``.
        """
        # By shard, so that a task opens each file once; in groups, so that all threads have work.
        order = np.argsort(wanted // self._per_shard, kind="stable")
        ends = np.flatnonzero(np.diff(wanted[order] // self._per_shard)) + 1
        tasks = []
        for group in np.split(order, ends):
            for begin in range(0, len(group), _GROUP):
                mine = group[begin : begin + _GROUP]
                targets = [out[row].reshape(-1) for row in rows[mine].tolist()]
                tasks.append(self.submit(self.decode, wanted[mine].tolist(), targets))
        return tasks

    def submit(self, function: Callable[..., None], *arguments: Any) -> Future[None]:
        """Run something on the reading threads of this process."""
        remote = isinstance(self._store, RemoteByteStore)
        threads = _REMOTE_THREADS if remote else min(usable_cores(), _MOST_THREADS)
        return _pool(threads).submit(function, *arguments)

    def _buffer(self) -> bytearray:
        # Of each thread its own: touching fresh memory costs nearly as much as decoding.
        if not hasattr(self._own, "buffer"):
            self._own.buffer = bytearray(max(self._most, self._per_shard * 16 + 4))
        buffer: bytearray = self._own.buffer
        return buffer

    def decode(self, items: Sequence[int], targets: Iterable[NDArray[np.uint8]]) -> None:
        """Decode some items, each into the next of ``targets``.

        Targets are (n,) uint8, contiguous, of n = 3 x ``side_px`` x ``side_px`` bytes.

        Items of one shard should stand together: its file is opened once for them. A target is
        asked for when the one before it is filled.

        Raises
        ------
        OSError, LayoutError
            If a shard is missing or damaged.
        """
        for data, target in zip(self._chunks(items), targets, strict=True):
            _decoded(data, self._checked, self._decode, target)

    def chunks(self, items: Sequence[int]) -> list[bytes]:
        """Some items as they are stored, not decoded; those of one shard should stand together.

        Raises
        ------
        OSError, LayoutError
            If a shard is missing or damaged.
        """
        found = self._chunks(items)
        return [bytes(_checked(data) if self._checked else data) for data in found]

    def _chunks(self, items: Sequence[int]) -> Iterator[Data]:
        """The bytes of each item, valid until the next is asked for."""
        buffer = self._buffer()
        shard_now = -1
        with ExitStack() as opened:
            for item in items:
                shard, slot = divmod(item, self._per_shard)
                if shard != shard_now:
                    opened.close()
                    name = f"{self.array}/c/{shard}/0/0/0"
                    file = opened.enter_context(self._store.open(name))
                    index = self._index(shard, file, buffer)
                    shard_now = shard
                offset, length = index[slot].tolist()
                if length > self._most or offset >= 1 << 63:
                    raise LayoutError("absent")
                yield file.read(offset, length, buffer)

    def _index(self, shard: int, file: RangeFile, buffer: bytearray) -> NDArray[np.uint64]:
        """Offset and length of each item in a shard; read once."""
        index = self._indices.get(shard)
        if index is None:
            # 16 bytes per item and a checksum, at the end of the file (a negative offset).
            length = self._per_shard * 16 + 4
            data = file.read(-length, length, buffer)
            index = np.frombuffer(bytes(_checked(data)), dtype="<u8").reshape(-1, 2)
            if len(index) != self._per_shard:
                raise LayoutError("index")
            self._indices[shard] = index
        return index


_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that read; a process's own, since none survives a fork."""
    key = (os.getpid(), threads)
    if key not in _POOLS:
        for other in [k for k in _POOLS if k[0] != key[0]]:
            del _POOLS[other]
        _POOLS[key] = ThreadPoolExecutor(threads, thread_name_prefix="patches")
    return _POOLS[key]
