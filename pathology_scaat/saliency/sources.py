"""Where the patches come from that are explained: a store that holds them, or the slide itself.

Both give the same patches in the same batches: the slide is read by the code that fills a store,
with the plan and the positions that a store without pixels holds.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.errors import SlideReadError, StoreError
from pathology_scaat.execution.jobs import job_threads
from pathology_scaat.geometry import plan_read
from pathology_scaat.patches.config import TileJob
from pathology_scaat.patches.extractor import PatchExtractor
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.fingerprint import FingerprintTask
from pathology_scaat.slides.tiles import as_tiled

READ_AHEAD_BATCHES = 3


class UnreadablePatchesError(Exception):
    """Some patches of a slide cannot be decoded; found when all others have been given.

    Attributes
    ----------
    readable : (N,) bool
    """

    def __init__(self, readable: NDArray[np.bool_]) -> None:
        super().__init__(f"{int((~readable).sum())} patches cannot be decoded")
        self.readable = readable


class PatchSource(Protocol):
    """The patches of one slide, in slide order."""

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All patches, (n, P, P, 3) uint8 at a time with n <= ``size``; may be called again."""


def batch_buffer(n: int, side_px: int, pinned: bool) -> NDArray[np.uint8]:
    """Room for a batch, (n, P, P, 3) uint8; where it is pinned a GPU fetches it by itself."""
    return torch.empty((n, side_px, side_px, 3), dtype=torch.uint8, pin_memory=pinned).numpy()


@dataclass(frozen=True)
class StoredPatches:
    """Patches of a store that holds their pixels, read by one thread a few batches ahead."""

    store: PatchStore
    pinned: bool = False

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All patches, (n, P, P, 3) uint8 at a time with n <= ``size``; may be called again.

        Raises
        ------
        StoreError
            If a shard is missing or damaged.
        """
        store, total = self.store, len(self.store)

        def read(start: int) -> NDArray[np.uint8]:
            indices = np.arange(start, min(start + size, total))
            buffer = batch_buffer(len(indices), store.patch_size_px, self.pinned)
            return store.read_into(indices, buffer, np.arange(len(indices))).result()

        with ThreadPoolExecutor(1, thread_name_prefix="scaat-read") as pool:
            pending = deque(
                pool.submit(read, start) for start in range(0, total, size)[:READ_AHEAD_BATCHES]
            )
            for start in range(READ_AHEAD_BATCHES * size, total, size):
                found = pending.popleft().result()
                pending.append(pool.submit(read, start))
                yield found
            while pending:
                yield pending.popleft().result()


class _StoppedError(Exception):
    """Whoever asked for the patches wants no more."""


@dataclass(frozen=True)
class SlidePatches:
    """Patches of a store without pixels, cut from the slide by a thread a few batches ahead.

    Attributes
    ----------
    store : PatchStore
        Which patches there are.
    job : TileJob
        How that store was made: where the slide is, and by which settings it is read.
    pinned : bool
    """

    store: PatchStore
    job: TileJob
    pinned: bool = False

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All readable patches, (n, P, P, 3) uint8 at a time with n <= ``size``.

        The slide is decoded anew by each call.

        Raises
        ------
        SlideError
            If the slide cannot be opened, or has changed since the store was made (SlideReadError).
        UnreadablePatchesError
            After the last batch, where patches cannot be decoded.
        """
        ready: queue.Queue[NDArray[np.uint8] | BaseException | None] = queue.Queue(
            READ_AHEAD_BATCHES
        )
        stopped = threading.Event()

        def put(item: NDArray[np.uint8] | BaseException | None) -> None:
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue
            raise _StoppedError

        def work() -> None:
            try:
                with self._extractor() as extractor:
                    self._cut(extractor, size, put)
                put(None)
            except _StoppedError:
                return
            except BaseException as error:  # it is raised where the patches are asked for
                try:
                    put(error)
                except _StoppedError:
                    return

        thread = threading.Thread(target=work, name="scaat-slide", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()

    @contextmanager
    def _extractor(self) -> Iterator[PatchExtractor]:
        """The slide, opened as when the store was made."""
        job, meta = self.job, self.store.meta
        location = slide_location(job.slide_path)
        with (
            open_slide(job.slide_path, reader=job.config.reader, mpp=job.mpp) as slide,
            FingerprintTask(location, job.fingerprint_key) as content,
        ):
            plan = plan_read(
                meta.slide.mpp,
                slide.info.level_downsamples,
                job.config.mpp,
                job.config.mpp_tolerance,
            )
            if content.result() != meta.slide_fingerprint or plan.level != meta.level_read:
                raise SlideReadError(
                    location.name, "has changed since its patches were chosen", "run again"
                )
            tiled = as_tiled(slide)
            with PatchExtractor(tiled, plan, meta.grid, threads=job_threads()) as extractor:
                yield extractor

    def _cut(self, extractor: PatchExtractor, size: int, put: _Put) -> None:
        """Fill batch after batch with the readable patches."""
        side = self.store.patch_size_px
        batch = batch_buffer(size, side, self.pinned)
        filled = 0

        def append(patch: NDArray[np.uint8]) -> None:
            nonlocal batch, filled
            batch[filled] = patch
            filled += 1
            if filled == size:
                put(batch)
                batch, filled = batch_buffer(size, side, self.pinned), 0

        readable = extractor.extract(self.store.grid_index, lambda patch: patch.copy(), append)
        if filled:
            put(batch[:filled])
        if not readable.all():
            raise UnreadablePatchesError(readable)


class _Put(Protocol):
    def __call__(self, item: NDArray[np.uint8]) -> None: ...


def patch_source(store: PatchStore, job: TileJob | None, *, pinned: bool = False) -> PatchSource:
    """Where the patches of a store come from.

    Raises
    ------
    StoreError
        If the store holds no pixels and nothing says where the slide is.
    """
    if store.meta.has_pixels:
        return StoredPatches(store, pinned)
    if job is None:
        raise StoreError(
            store.name,
            "holds no pixels: a model was applied, which reads them from the slide",
            "use 'scaat run --model' again, or make the store with 'scaat tile'",
        )
    return SlidePatches(store, job, pinned)
