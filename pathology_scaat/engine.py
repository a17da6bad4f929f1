"""Where the work runs: here, in local processes, or on a cluster, through Dask.

Jobs are submitted lazily, a few for each worker, and their results let go as they come, so
that a thousand slides never become a graph of a million tasks. Slides are opened where the
job runs; only small job descriptions and results travel.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.errors import ConfigError, ScaatError, UsageError
from pathology_scaat.privacy import Redactor

LOGGER = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

AHEAD = 2
"""Jobs submitted for each worker: one it works on, one waiting."""

CONNECT_TIMEOUT_S = 30

LOST_WORKERS_ALLOWED = 1
"""A job that was on so many dying workers and one more is set apart and tried alone."""


class EngineConfig(BaseModel):
    """Where jobs run. Decides speed only, never a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(
        default=None, ge=0, le=4096, description="local processes; 0 or 1 work inside this one"
    )
    scheduler: str | None = Field(
        default=None,
        description="address of a running dask.distributed scheduler (tcp://host:8786)",
    )
    cluster: Path | None = Field(default=None, description="cluster profile (YAML) for a job queue")


@dataclass(frozen=True)
class JobOutcome(Generic[Result]):
    """What became of a job: ``result`` where ``error`` is None."""

    index: int
    result: Result | None
    error: ScaatError | None


class JobError(ScaatError, RuntimeError):
    """A job that ended in a way nobody foresaw; ``trace`` is for the log."""

    trace: str = ""


_threads_of_job = 1


def job_threads() -> int:
    """How many threads the running job may use."""
    return _threads_of_job


def _guarded(
    function: Callable[[Job], Result], job: Job, threads: int
) -> tuple[Result | None, ScaatError | None]:
    """Run a job; its error is a value, so that it stops no other and needs no traceback."""
    global _threads_of_job
    _threads_of_job = threads
    try:
        return function(job), None
    except ScaatError as error:
        return None, error
    except MemoryError:
        return None, JobError(_subject(job), "ran out of memory", "use fewer workers")
    except OSError as error:
        words = error.strerror or type(error).__name__
        return None, _unforeseen(
            job,
            JobError(
                _subject(job),
                f"a file could not be read or written ({words})",
                "check free disk space and permissions, then run again",
            ),
        )
    except Exception as error:
        kind = type(error).__name__
        return None, _unforeseen(
            job, JobError(_subject(job), f"failed in an unforeseen way ({kind})", "report it")
        )
    finally:
        _threads_of_job = 1


def _unforeseen(job: object, error: JobError) -> JobError:
    """The error with the present traceback, for the log of the process that asked.

    The words of foreign errors may hold paths and names: they are redacted where they arise.
    """
    redactor = Redactor()
    slide_path = getattr(getattr(job, "job", job), "slide_path", None)
    if slide_path:
        redactor.hide_path(Path(slide_path), _subject(job))
    error.trace = redactor(traceback.format_exc())
    return error


def _subject(job: object) -> str:
    inner = getattr(job, "job", job)
    return str(getattr(inner, "slide_id", "") or "a job")


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def map_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], config: EngineConfig | None = None
) -> Iterator[JobOutcome[Result]]:
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
        In order of completion. A failing job never stops the others.

    Raises
    ------
    UsageError
        If no scheduler answers at the given address.
    ConfigError
        If the cluster profile cannot be used.
    """
    config = config or EngineConfig()
    if config.scheduler and config.cluster:
        raise UsageError("--scheduler/--cluster", "both were given", "give one of them")
    if not jobs:
        return
    if config.scheduler or config.cluster:
        yield from _distributed(function, jobs, config, 0)
        return
    workers = usable_cores() if config.workers is None else max(config.workers, 1)
    processes = min(workers, len(jobs))
    if processes > 1:
        yield from _distributed(function, jobs, config, processes, workers // processes)
        return
    for index, job in enumerate(jobs):
        result, error = _guarded(function, job, workers)
        yield JobOutcome(index, result, error)


def _distributed(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    config: EngineConfig,
    processes: int,
    threads: int = 1,
) -> Iterator[JobOutcome[Result]]:
    with ExitStack() as stack:
        client = _client(stack, config, processes)

        def submit(index: int) -> Any:
            # Not pure: equal jobs are still run each, and nothing is kept by content.
            return client.submit(_guarded, function, jobs[index], threads, pure=False)

        width = max(1, len(client.scheduler_info(n_workers=-1)["workers"])) * AHEAD
        suspects = []
        for index, future in _in_flight(submit, range(len(jobs)), width):
            if future.status == "finished":
                yield JobOutcome(index, *future.result())
            else:
                suspects.append(index)
        # A worker that dies takes the job that waits behind the guilty one with it: each is
        # tried once more, alone.
        for index, future in _in_flight(submit, suspects, 1):
            yield _outcome(index, future, jobs[index])


def _in_flight(
    submit: Callable[[int], Any], indices: Sequence[int], width: int
) -> Iterator[tuple[int, Any]]:
    """Keep ``width`` jobs submitted; yield each that ended, and let its result go."""
    remaining = iter(indices)
    pending = {submit(index): index for index in islice(remaining, width)}
    if not pending:
        return
    completed = _distributed_library().as_completed(pending)
    for future in completed:
        index = pending.pop(future)
        for following in islice(remaining, 1):
            later = submit(following)
            pending[later] = following
            completed.add(later)
        yield index, future
        future.release()


def _outcome(index: int, future: Any, job: object) -> JobOutcome[Any]:
    if future.status == "finished":
        result, error = future.result()
        return JobOutcome(index, result, error)
    LOGGER.error("job %d was lost with its worker (%s)", index, future.status)
    return JobOutcome(
        index,
        None,
        JobError(
            _subject(job),
            "its worker process died (out of memory?)",
            "try again with fewer workers",
        ),
    )


def _distributed_library() -> Any:
    """dask.distributed, imported when it is needed: it takes a second."""
    return importlib.import_module("distributed")


def _client(stack: ExitStack, config: EngineConfig, processes: int) -> Any:
    library = _distributed_library()
    if config.scheduler:
        try:
            return stack.enter_context(library.Client(config.scheduler, timeout=CONNECT_TIMEOUT_S))
        except (OSError, ValueError, ImportError, TypeError):
            raise UsageError(
                "--scheduler",
                f"no dask scheduler answers at {config.scheduler}",
                "start one with 'dask scheduler', or leave the option out",
            ) from None
    if config.cluster:
        from pathology_scaat.cluster_profile import start_cluster

        cluster = stack.enter_context(start_cluster(config.cluster))
    else:
        settings = {"distributed.scheduler.allowed-failures": LOST_WORKERS_ALLOWED}
        stack.enter_context(importlib.import_module("dask").config.set(settings))
        cluster = stack.enter_context(_local_cluster(processes))
    client = stack.enter_context(library.Client(cluster))
    if config.cluster:
        try:
            client.wait_for_workers(1, timeout=3600)
        except TimeoutError:
            raise ConfigError(
                config.cluster.name, "the queue started no worker within an hour", "check the queue"
            ) from None
    return client


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Threads and processes that begin in the block never see Ctrl-C.

    A terminal sends it to every process of the command: only this one is to answer, and to
    end the others. One that arrives within the block is kept for its end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its first start would unblock the signal again in the thread that starts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _local_cluster(processes: int) -> Any:
    with _no_interrupts():
        return _started_cluster(processes)


def _started_cluster(processes: int) -> Any:
    return _distributed_library().LocalCluster(
        n_workers=processes,
        threads_per_worker=1,
        processes=True,
        # No web page, no open port beyond loopback, and no memory limit: jobs bound their
        # own memory, and a limit guessed from the machine would kill healthy workers.
        # (None would ask for port 8787 and warn where another run has it.)
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        host="127.0.0.1",
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )
