"""Where the work runs, always as Dask tasks: here, in local processes, or on a cluster.

Slides are opened where the job runs; only small job descriptions and results travel.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.errors import UsageError
from pathology_scaat.execution.graph import (
    Backend,
    Beside,
    OnProgress,
    Outcome,
    compute_here,
    job_task,
    run_jobs,
)
from pathology_scaat.execution.jobs import (
    JobError,
    JobOutcome,
    LostError,
    guarded,
    job_threads,
    listen_to_progress,
)
from pathology_scaat.system.memory import is_limited, require_memory
from pathology_scaat.system.processes import usable_cores

if TYPE_CHECKING:
    from pathology_scaat.execution.local_pool import StartedWorkers

__all__ = [
    "Beside",
    "EngineConfig",
    "JobError",
    "JobOutcome",
    "LostError",
    "guarded",
    "job_threads",
    "map_jobs",
]

Job = TypeVar("Job")
Result = TypeVar("Result")


class EngineConfig(BaseModel):
    """Where jobs run. Decides speed only, never a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(
        default=None,
        ge=0,
        le=4096,
        description="local processes; 0 works inside this one; so does 1 where memory has no limit",
    )
    scheduler: str | None = Field(
        default=None,
        description=(
            "address of a running dask.distributed scheduler (tls://host:8786), or 'local' for one "
            "on this machine, with a dashboard"
        ),
    )
    cluster: Path | None = Field(default=None, description="cluster profile (YAML) for a job queue")


def map_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    config: EngineConfig | None = None,
    *,
    announce: Callable[[str], None] | None = None,
    resources: dict[str, float] | None = None,
    on_progress: OnProgress | None = None,
    beside: Beside | None = None,
    started: StartedWorkers | None = None,
) -> Generator[JobOutcome[Result], None, None]:
    """Run one function over many jobs and yield what becomes of each, as it comes.

    Parameters
    ----------
    function : callable
        Importable function of one job (it is named to other processes, not sent).
    jobs : sequence
        Picklable values; they hold no open files.
    config : EngineConfig, optional
        Where to run; by default local processes, as many as there are cores and jobs.
        Local processes are spawned: a script that calls this needs the usual
        ``if __name__ == "__main__"``.
    announce : callable, optional
        Called with one sentence that a user should read: where the cluster's dashboard is, or
        that its connection is not protected.
    resources : dict, optional
        What a worker of a Dask cluster must offer, such as ``{"GPU": 1}``; heeded where any of
        its workers offers it.
    on_progress : callable, optional
        Called with the index of a running job and the share of it that is done (0 to 1), on any
        thread; jobs on a cluster do not report.
    beside : Beside, optional
        Further jobs for the same workers; the caller adds to it as outcomes come.
    started : StartedWorkers, optional
        Local processes that wait for these jobs; without them new ones are started.

    Yields
    ------
    JobOutcome
        In order of completion. A failing job never stops the others. Where a cluster is lost
        in the middle, the jobs that are not done have a :class:`LostError`.

    Raises
    ------
    UsageError
        If no scheduler answers at the given address, or no local process can be started (also for
        want of memory).
    ConfigError
        If the cluster profile cannot be used.
    """
    config = config or EngineConfig()
    if config.scheduler and config.cluster:
        raise UsageError("--scheduler/--cluster", "both were given", "give one of them")
    if not jobs:
        return
    require_memory()
    with (
        _backend(config, len(jobs), announce, resources, started) as backend,
        closing(run_jobs(backend, function, jobs, on_progress, beside)) as outcomes,
    ):
        yield from outcomes


class _InThisProcess:
    """Runs tasks one after the other by Dask's synchronous scheduler, with all threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def run(
        self,
        function: Callable[[Any], Any],
        jobs: Sequence[Any],
        indices: Sequence[int],
        alone: bool,
        on_progress: OnProgress | None,
        beside: Beside,
    ) -> Iterator[tuple[int, Outcome | None]]:
        for index in indices:
            for further in beside.take():
                beside.ended(guarded(*further, self._threads))
            task = job_task(guarded, function, jobs[index], self._threads)
            if on_progress is not None:
                listen_to_progress(partial(on_progress, index))
            try:
                outcome: Outcome = compute_here(task)
            finally:
                listen_to_progress(None)
            yield index, outcome


@contextmanager
def _backend(
    config: EngineConfig,
    n_jobs: int,
    announce: Callable[[str], None] | None,
    resources: dict[str, float] | None,
    started: StartedWorkers | None,
) -> Iterator[Backend]:
    if config.scheduler or config.cluster:
        from pathology_scaat.execution.dask_cluster import cluster_backend

        with cluster_backend(config.scheduler, config.cluster, announce, resources) as backend:
            yield backend
        return
    workers = usable_cores() if config.workers is None else max(config.workers, 1)
    processes = min(workers, n_jobs)
    # Where memory is limited, a job runs in a process of its own even if it is alone: the
    # kernel kills the process that asks for too much, and the command must survive to say so.
    if processes > 1 or started is not None or (config.workers != 0 and is_limited()):
        from pathology_scaat.execution.local_pool import LocalBackend

        yield LocalBackend(processes, workers // processes, started)
    else:
        yield _InThisProcess(workers)
