"""Where the work runs: here, in local processes, or on a cluster, through Dask.

Slides are opened where the job runs; only small job descriptions and results travel.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.errors import UsageError
from pathology_scaat.execution.jobs import JobError, JobOutcome, LostError, guarded, job_threads
from pathology_scaat.system.memory import is_limited, require_room
from pathology_scaat.system.processes import usable_cores

__all__ = [
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
        description="address of a running dask.distributed scheduler (tls://host:8786), or local",
    )
    cluster: Path | None = Field(default=None, description="cluster profile (YAML) for a job queue")


def map_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], config: EngineConfig | None = None
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
    require_room()
    if config.scheduler or config.cluster:
        from pathology_scaat.execution.dask_cluster import run_on_cluster

        width = usable_cores() if config.workers is None else max(config.workers, 1)
        yield from run_on_cluster(
            function, jobs, config.scheduler, config.cluster, min(width, len(jobs))
        )
        return
    workers = usable_cores() if config.workers is None else max(config.workers, 1)
    processes = min(workers, len(jobs))
    apart = processes > 1 or (config.workers != 0 and is_limited())
    if apart:
        from pathology_scaat.execution.local_pool import run_in_processes

        yield from run_in_processes(function, jobs, processes, workers // processes)
        return
    for index, job in enumerate(jobs):
        result, error = guarded(function, job, workers)
        yield JobOutcome(index, result, error)
