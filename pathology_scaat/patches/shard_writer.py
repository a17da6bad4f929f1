"""The shards of a patch array, written chunk after chunk.

The format is zarr's own (sharding_indexed). It is written here and not by TensorStore: a
patch that is compressed where it was made and appended at once costs a third of one that is
first gathered, copied and handed on.

Where the system allows it the file is written past its page cache (``O_DIRECT``), in large
aligned blocks: a store is larger than what anybody reads again soon. Measured alone
(``benchmarks/direct_io.py``, 466 patches of 256 px, medians of six runs in turns on two shared
cores) it saves a tenth of a slide: 0.335 s of CPU against 0.376, 1.12 s of wall time against 1.24.
"""

from __future__ import annotations

import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np

BLOCK_BYTES = 4 << 20
N_BLOCKS = 6
"""One is filled, one is on its way to the disk, and some may wait while it is slow."""

_ALIGNED_BYTES = 4096
_ABSENT = (1 << 64) - 1
"""Offset and length in the index of a chunk that is not there."""


class _File:
    """A new file that whole blocks are written to, at the disk's pace, by one thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        self._direct = getattr(os, "O_DIRECT", 0)
        try:
            self._descriptor = os.open(path, flags | self._direct, 0o666)
        except OSError:  # a file system without it
            self._direct = 0
            self._descriptor = os.open(path, flags, 0o666)

    def write(self, block: mmap.mmap, length: int) -> None:
        """Append a block's first bytes; all but the last block of a file are full."""
        aligned = -(-length // _ALIGNED_BYTES) * _ALIGNED_BYTES
        written = 0
        with memoryview(block) as data:
            while written < length:
                # O_DIRECT takes whole disk blocks only: the last write is padded, see `finish`.
                end = aligned if self._direct else length
                try:
                    written += os.write(self._descriptor, data[written:end])
                except OSError:
                    if not self._direct:
                        raise
                    self._be_ordinary()  # allowed to open, but not to write
                    continue
                if written % _ALIGNED_BYTES:
                    self._be_ordinary()  # a disk that fills up may take a part

    def _be_ordinary(self) -> None:
        if self._direct:
            import fcntl  # not everywhere, but wherever there is O_DIRECT

            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~self._direct)
            self._direct = 0

    def finish(self, length: int) -> None:
        """Cut off the padding. Whoever publishes the store has it synced."""
        try:
            os.ftruncate(self._descriptor, length)
        finally:
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ShardWriter:
    """Appends chunks to the shards of an array, one after the other.

    Blocks of a shard go to the disk in a thread of its own. Not for several threads at once.

    Parameters
    ----------
    array_path : Path
        The array's folder.
    chunks_per_shard : int
        How many chunks make a shard; the last one may hold fewer.
    """

    def __init__(self, array_path: Path, chunks_per_shard: int) -> None:
        self._folder = array_path / "c"
        self._per_shard = chunks_per_shard
        self._index = np.full((chunks_per_shard, 2), _ABSENT, dtype="<u8")
        self._blocks: list[mmap.mmap] = []
        self._file: _File | None = None
        self._block: mmap.mmap | None = None
        self._filled = 0
        self._offset = 0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._writing: list[tuple[Future[None], mmap.mmap]] = []
        self._finishing: list[Future[None]] = []
        self.n_chunks = 0

    def append(self, encoded: tuple[bytes | bytearray, int]) -> None:
        """Append one chunk.

        Raises
        ------
        OSError
            If the disk is full or fails; also for what was appended before.
        """
        buffer, length = encoded
        self._enter(length)
        self._put(memoryview(buffer)[:length])
        self._entered()

    def room(self, n_bytes: int) -> memoryview | None:
        """Memory where the next chunk will lie; None where that is not in one piece.

        Raises
        ------
        OSError
            If the disk is full or fails, for what was appended before.
        """
        if self._block is None:
            self._block = self._free_block()
        if BLOCK_BYTES - self._filled < n_bytes:
            return None
        return memoryview(self._block)[self._filled : self._filled + n_bytes]

    def append_from_room(self, length: int) -> None:
        """Append the chunk that was made in :meth:`room`, with nothing appended since."""
        self._enter(length)
        self._filled += length
        if self._filled == BLOCK_BYTES:
            self._send()
        self._entered()

    def _enter(self, length: int) -> None:
        if self._file is None:
            name = str(self.n_chunks // self._per_shard)
            self._file = _File(self._folder / name / "0" / "0" / "0")
        self._index[self.n_chunks % self._per_shard] = self._offset + self._filled, length

    def _entered(self) -> None:
        self.n_chunks += 1
        if self.n_chunks % self._per_shard == 0:
            self._close_shard()

    def _put(self, data: memoryview) -> None:
        while data:
            if self._block is None:
                self._block = self._free_block()
            part = data[: BLOCK_BYTES - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == BLOCK_BYTES:
                self._send()

    def _free_block(self) -> mmap.mmap:
        # At most N_BLOCKS exist, which bounds memory: with all others on their way to the disk
        # this waits for the oldest. `result` raises what its writing raised.
        if self._writing and (self._writing[0][0].done() or len(self._writing) == N_BLOCKS - 1):
            future, block = self._writing.pop(0)
            self._blocks.append(block)
            future.result()
        return self._blocks.pop() if self._blocks else mmap.mmap(-1, BLOCK_BYTES)

    def _send(self) -> None:
        if self._block is None or self._file is None:
            return
        task = self._disk.submit(self._file.write, self._block, self._filled)
        self._writing.append((task, self._block))
        self._offset += self._filled
        self._block, self._filled = None, 0

    def _close_shard(self) -> None:
        if self._file is None:
            return
        # As zarr's sharding codec wants it: offsets and lengths at the end, with their CRC32C.
        index = self._index.tobytes()
        self._put(memoryview(index + google_crc32c.value(index).to_bytes(4, "little")))
        self._send()
        self._finishing.append(self._disk.submit(self._file.finish, self._offset))
        self._file, self._offset = None, 0
        self._index[...] = _ABSENT

    def finish(self) -> None:
        """Close the last shard and wait until all are written.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        self._close_shard()
        for task, _ in self._writing:
            task.result()
        for task in self._finishing:
            task.result()

    def close(self) -> None:
        """Let go of everything, whole or not; after it nothing touches the folder any more."""
        self._disk.shutdown()
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        self._blocks.clear()
        self._writing.clear()
