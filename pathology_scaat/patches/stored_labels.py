"""Labels of many patch stores, one small job per slide, wherever the engine runs them.

Training and evaluation both begin by reading the labels of every slide; pixels stay in the stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.execution.engine import EngineConfig, map_jobs
from pathology_scaat.patches.copied_labels import copied_class
from pathology_scaat.patches.reader import PatchStore

Found = TypeVar("Found")

IN_THIS_PROCESS = EngineConfig(workers=0)
"""Reading labels takes milliseconds per slide: less than starting a worker process."""


@dataclass(frozen=True)
class StoreJob:
    """One patch store to look into; it holds no open file."""

    slide_id: str
    store: Path


@dataclass(frozen=True)
class PatchLabels:
    """The label of every patch of a slide.

    Attributes
    ----------
    labels : ndarray, (N,) int16
        Index into ``class_names``, or -1 for a patch without a label.
    class_names : tuple of str
        As the store names them.
    patch_size_px : int
        Side of a patch.
    copied : str or None
        The class of the slide, where it was copied onto all these patches.
    """

    labels: NDArray[np.int16]
    class_names: tuple[str, ...]
    patch_size_px: int
    copied: str | None = None


@dataclass(frozen=True)
class LabelCounts:
    """How many patches of each class a slide has.

    Attributes
    ----------
    class_names : tuple of str
        As the store names them.
    counts : tuple of int
        Labelled patches of each class, in the order of ``class_names``.
    slide_fingerprint : str
        Of the slide that was tiled: two stores of one slide have the same.
    """

    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    slide_fingerprint: str

    @property
    def present(self) -> tuple[str, ...]:
        """The classes that at least one patch has."""
        return tuple(n for n, count in zip(self.class_names, self.counts, strict=True) if count)


def read_patch_labels(job: StoreJob) -> PatchLabels:
    """The labels of one store.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    store = PatchStore(job.store)
    labels = np.asarray(store.labels, dtype=np.int16)
    meta = store.meta
    return PatchLabels(labels, meta.class_names, meta.grid.patch_size_px, copied=copied_class(meta))


def count_labels(job: StoreJob) -> LabelCounts:
    """How many patches of each class one store has.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    store = PatchStore(job.store)
    names = store.meta.class_names
    labels = store.labels[store.labels >= 0]
    counts = np.bincount(labels, minlength=len(names))
    return LabelCounts(names, tuple(int(c) for c in counts), store.meta.slide_fingerprint)


def over_stores(
    function: Callable[[StoreJob], Found],
    stores: Mapping[str, Path],
    engine: EngineConfig | None = None,
    *,
    skip_unreadable: bool = False,
    announce: Callable[[str], None] | None = None,
) -> dict[str, Found]:
    """Run a function over patch stores, one job per slide.

    Parameters
    ----------
    function : callable
        :func:`read_patch_labels` or :func:`count_labels`.
    stores : mapping of slide id to patch store
    engine : EngineConfig, optional
        Where the jobs run; in this process by default.
    skip_unreadable : bool
        Leave out stores that cannot be read, instead of raising.
    announce : callable, optional
        Called with one sentence that a user should read (:func:`map_jobs`).

    Returns
    -------
    dict of slide id to result
        In the order of ``stores``, whichever job ended first.

    Raises
    ------
    StoreError
        If a store cannot be read, of the first such slide.
    LostError
        If the cluster went away.
    """
    asked = engine is not None and engine != EngineConfig()
    jobs = [StoreJob(slide_id, Path(path)) for slide_id, path in stores.items()]
    with closing(
        map_jobs(function, jobs, engine if asked else IN_THIS_PROCESS, announce=announce)
    ) as outcomes:
        ended = sorted(outcomes, key=lambda outcome: outcome.index)
    found: dict[str, Found] = {}
    for job, outcome in zip(jobs, ended, strict=True):
        if outcome.error is None and outcome.result is not None:
            found[job.slide_id] = outcome.result
        elif outcome.error is not None and not (
            skip_unreadable and isinstance(outcome.error, StoreError)
        ):
            raise outcome.error
    return found
