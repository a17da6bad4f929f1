"""The next stage of a slide while the next slide is explained: CPUs work while a GPU computes.

What is made ahead is what the stage itself would make: the same function, under the same lease,
in worker processes of the same kind. The stage comes afterwards all the same. It finds what is
right, makes what is missing, and alone reports failures and writes the status table; so nothing
hangs on what happened here, and an interruption at any moment costs a map that was half made.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from pathology_scaat.artifacts.leases import LeasedJob, run_leased
from pathology_scaat.errors import ScaatError
from pathology_scaat.execution.devices import gpu_count
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.execution.local_pool import ProcessExecutor
from pathology_scaat.system.processes import usable_cores

PROCESSES_PER_GPU = 4
"""Stitching a slide takes a core about twice as long as explaining it takes a GPU."""


def helpers_for(engine: EngineConfig | None, device: str) -> int:
    """Processes that may work beside the GPUs; none where the CPUs explain, or work elsewhere."""
    config = engine or EngineConfig()
    if config.scheduler or config.cluster or config.workers is not None:
        return 0
    gpus = gpu_count(device)
    return min(PROCESSES_PER_GPU * gpus, max(usable_cores() - gpus, 0))


class Ahead:
    """Runs jobs of the next stage as slides become ready for it; a context manager.

    Parameters
    ----------
    job_of : callable
        The job of a slide, by its id, with the artifact that it makes.
    processes : int
        At most so many; with 0 nothing is made ahead.
    """

    def __init__(self, job_of: Callable[[str], LeasedJob[Any, Any]], processes: int) -> None:
        self._job_of = job_of
        self._executor = ProcessExecutor(processes, 1) if processes else None
        self._running: dict[str, Future[Any]] = {}

    def ready(self, slide_id: str) -> None:
        """Have the job of a slide done; returns at once."""
        if self._executor is not None:
            self._running[slide_id] = self._executor.submit(
                self._executor.run_in_worker, run_leased, self._job_of(slide_id)
            )

    def finish(self) -> frozenset[str]:
        """Wait for what is begun; the slides whose artifact was made here, and not found."""
        return frozenset(s for s, future in self._running.items() if _was_made(future))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            for future in self._running.values():
                future.cancel()
            self._executor.close(idle=kind is None)


def _was_made(future: Future[Any]) -> bool:
    try:
        outcome = future.result()
    except ScaatError:  # no process can be started: the stage itself will say so
        return False
    return outcome is not None and outcome[0] is not None and not outcome[0].skipped
