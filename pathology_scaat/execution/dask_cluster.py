"""Jobs on a cluster: a running dask.distributed scheduler, a local one, or a job queue's.

A worker that dies costs a second try of what it held. A scheduler that dies, or a cluster
whose last worker is gone and does not come back, ends the batch in bounded time, and what
was not done is reported for each job.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pathology_scaat.errors import ConfigError, UsageError
from pathology_scaat.execution.graph import Beside, OnProgress, Outcome, job_task
from pathology_scaat.execution.jobs import ClusterLostError, guarded
from pathology_scaat.system.worker_import import end_if_imported_by_worker

LOGGER = logging.getLogger(__name__)

LOCAL = "local"
"""The address that stands for a cluster on this machine, started for the command."""

PREFETCH = 2
"""Jobs submitted for each thread of a worker: one it works on, one waiting."""

CONNECT_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 120.0
"""A scheduler that does not answer for so long is taken for lost."""

NO_WORKER_TIMEOUT_S = 300.0
"""A scheduler without any worker for so long has lost them for good."""

QUEUE_TIMEOUT_S = 3600.0
"""The same where a job queue starts the workers."""

LOOK_EVERY_S = 5.0
"""How often the workers are counted: a cluster grows and shrinks."""

_POLL_INTERVAL_S = (0.005, 0.2)
"""Shortest and longest wait between two looks at the running jobs."""


def _library() -> Any:
    """dask.distributed, imported when it is needed: it takes a second."""
    return importlib.import_module("distributed")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's loggers, which print host names and tracebacks; we report in our words."""
    _library()  # gives several of its loggers a level and a handler of their own
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def cluster_backend(
    scheduler: str | None,
    cluster: Path | None,
    announce: Callable[[str], None] | None = None,
    resources: dict[str, float] | None = None,
) -> Iterator[ClusterBackend]:
    """Connect to a scheduler, or start one, for the length of a block.

    Parameters
    ----------
    scheduler : str or None
        Address, or ``local``.
    cluster : Path or None
        Profile of a job queue.
    announce : callable, optional
        Called with a sentence: where the dashboard is, or that the connection is not protected.
    resources : dict, optional
        What a worker must offer, heeded where any worker offers it.

    Raises
    ------
    UsageError
        If no scheduler answers at the given address.
    ConfigError
        If the cluster profile cannot be used.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        client = _client(stack, scheduler, cluster, announce or LOGGER.info)
        workers = _ClusterWorkers(client, QUEUE_TIMEOUT_S if cluster else NO_WORKER_TIMEOUT_S)
        yield ClusterBackend(workers, resources)


class _ClusterWorkers:
    """The workers of a scheduler, counted now and then."""

    def __init__(self, client: Any, patience_s: float) -> None:
        self.client = client
        self._patience_s = patience_s
        self._last_seen = time.monotonic()
        self._last_look = float("-inf")
        self._threads = 1
        self.offered: frozenset[str] = frozenset()
        """Resources that at least one worker offers."""

    def capacity(self) -> int:
        """Jobs to keep submitted.

        Raises
        ------
        ClusterLostError
            If the scheduler does not answer, or has had no worker for too long.
        """
        if self.client.status != "running":
            raise ClusterLostError("the dask scheduler was lost")
        now = time.monotonic()
        if now - self._last_look >= LOOK_EVERY_S:
            self._last_look = now
            workers = self._running()
            if workers:
                self._last_seen = now
                self._threads = sum(int(worker.get("nthreads", 1)) for worker in workers)
                self.offered = frozenset().union(*(w.get("resources") or {} for w in workers))
            elif now - self._last_seen > self._patience_s:
                raise ClusterLostError("the dask scheduler has no worker that takes work")
        return max(1, self._threads) * PREFETCH

    def _running(self) -> list[dict[str, Any]]:
        identity = self.client.scheduler.identity
        try:
            found = self.client.sync(identity, n_workers=-1, callback_timeout=ANSWER_TIMEOUT_S)
        except (OSError, TimeoutError, RuntimeError):
            raise ClusterLostError("the dask scheduler was lost") from None
        # A worker near its memory limit is paused: it is there, and takes no work.
        return [w for w in found["workers"].values() if w.get("status", "running") == "running"]


class ClusterBackend:
    """Runs jobs as Dask tasks on the workers of a scheduler.

    Tasks are built and submitted a few per worker, and their results released as they come,
    so that the scheduler's memory does not grow with the cohort.
    """

    def __init__(self, workers: _ClusterWorkers, resources: dict[str, float] | None) -> None:
        self._workers = workers
        self._resources = resources

    def run(
        self,
        function: Callable[[Any], Any],
        jobs: Sequence[Any],
        indices: Sequence[int],
        alone: bool,
        on_progress: OnProgress | None,
        beside: Beside,
    ) -> Iterator[tuple[int, Outcome | None]]:
        """Outcomes as they come; None for a job whose worker died.

        Jobs beside the batch need nothing of a worker but its time; they are all waited for,
        since one that runs cannot be called back.

        A worker that dies takes along the jobs that wait behind the one that killed it, so
        that the caller tries each once more, alone.
        """
        todo = deque(indices)
        running: dict[int, Any] = {}
        further: list[Any] = []
        shortest_s, longest_s = _POLL_INTERVAL_S
        interval_s = shortest_s
        while todo or running or further:
            capacity = self._workers.capacity()
            while todo and len(running) < (1 if alone else capacity):
                index = todo.popleft()
                running[index] = self._submit(job_task(guarded, function, jobs[index], 1))
            ended = [index for index, future in running.items() if future.done()]
            for index in ended:
                future = running.pop(index)
                yield index, _outcome(future)
                future.release()
                further += [
                    self._submit(job_task(guarded, *job, 1), needs={}) for job in beside.take()
                ]
            for future in [future for future in further if future.done()]:
                further.remove(future)
                beside.ended(_outcome(future))
                future.release()
            interval_s = shortest_s if ended else min(2 * interval_s, longest_s)
            if not ended:
                time.sleep(interval_s)

    def _submit(self, task: Any, needs: dict[str, float] | None = None) -> Any:
        asked = (self._resources or {}) if needs is None else needs
        wanted = {k: v for k, v in asked.items() if k in self._workers.offered}
        return self._workers.client.compute(task, optimize_graph=False, resources=wanted or None)


def _outcome(future: Any) -> Outcome | None:
    if future.status == "cancelled":
        raise ClusterLostError("the dask scheduler was lost")
    if future.status != "finished":
        return None
    try:
        # Its worker may be gone since: then the job is done again somewhere else, if it can be.
        outcome: Outcome = future.result(timeout=ANSWER_TIMEOUT_S)
    except Exception as error:
        LOGGER.warning("a result was lost with its worker (%s)", type(error).__name__)
        return None
    return outcome


def _client(
    stack: ExitStack, scheduler: str | None, cluster: Path | None, announce: Callable[[str], None]
) -> Any:
    library = _library()
    if cluster is not None:
        return _queue_client(stack, cluster)
    if scheduler == LOCAL:
        return _local_client(stack, announce)
    if not str(scheduler).startswith("tls://"):
        announce(
            "the connection to the dask scheduler is not encrypted and not authenticated: whoever "
            "reaches its port can run code on the workers; use tls:// on a shared network"
        )
    try:
        return stack.enter_context(library.Client(scheduler, timeout=CONNECT_TIMEOUT_S))
    except (OSError, ValueError, ImportError, TypeError):
        raise UsageError(
            "--scheduler",
            f"no dask scheduler answers at {scheduler}",
            "start one with 'dask scheduler', or leave the option out",
        ) from None


def _local_client(stack: ExitStack, announce: Callable[[str], None]) -> Any:
    """A cluster on this machine's loopback, with certificates made for this run only."""
    end_if_imported_by_worker()
    library = _library()
    try:
        security = library.Security.temporary()
        cluster = library.LocalCluster(
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            threads_per_worker=1,
            security=security,
            silence_logs=logging.CRITICAL,
        )
    except (OSError, ImportError, RuntimeError) as error:
        raise UsageError(
            "--scheduler", f"no local cluster can be started ({type(error).__name__})",
            "use --workers",
        ) from None  # fmt: skip
    stack.enter_context(cluster)
    announce(f"dashboard of the local Dask cluster: {cluster.dashboard_link}")
    return stack.enter_context(library.Client(cluster, security=security))


def _queue_client(stack: ExitStack, cluster: Path) -> Any:
    from pathology_scaat.execution.job_queue import start_cluster

    client = stack.enter_context(_library().Client(stack.enter_context(start_cluster(cluster))))
    try:
        client.wait_for_workers(1, timeout=QUEUE_TIMEOUT_S)
    except TimeoutError:
        raise ConfigError(
            cluster.name, "the queue started no worker within an hour", "check the queue"
        ) from None
    return client
