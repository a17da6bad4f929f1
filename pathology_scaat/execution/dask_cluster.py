"""Jobs on a cluster, through a dask.distributed scheduler or a job queue.

A worker that dies costs a second try of what it held. A scheduler that dies, or a cluster
whose last worker is gone and does not come back, ends the batch in bounded time, and what
was not done is told for each job.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pathology_scaat.errors import ConfigError, UsageError
from pathology_scaat.execution.jobs import JobOutcome, LostError, guarded, subject_of, worker_died

LOGGER = logging.getLogger(__name__)

LOCAL = "local"
"""In the place of an address: a cluster on this machine, with TLS and the dashboard."""

AHEAD = 2
"""Jobs submitted for each thread of a worker: one it works on, one waiting."""

CONNECT_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 120.0
"""A scheduler that does not answer for so long is as good as gone."""

NO_WORKER_TIMEOUT_S = 300.0
"""A scheduler without any worker for so long has lost them for good."""

QUEUE_TIMEOUT_S = 3600.0
"""The same where a job queue starts the workers."""

LOOK_EVERY_S = 5.0
"""How often is looked who works: a cluster grows and shrinks."""

_REST_S = (0.005, 0.2)
"""Shortest and longest rest between two looks at the running jobs."""

RESTART = "start it again, then run the same command"


class _GoneError(Exception):
    """Nobody is left to work; the words say who is missing."""


def _library() -> Any:
    """dask.distributed, imported when it is needed: it takes a second."""
    return importlib.import_module("distributed")


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's log names hosts and ends in tracebacks; what matters is told in our own words."""
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


def run_on_cluster(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    scheduler: str | None,
    cluster: Path | None,
    workers: int = 1,
) -> Iterator[JobOutcome[Any]]:
    """Run jobs on the workers of a scheduler, or of a cluster profile; yield what becomes of each.

    Jobs are submitted lazily, a few for each worker, and their results let go as they come.
    If the scheduler or all workers are lost, each job that is not done has a
    :class:`LostError`.

    Raises
    ------
    UsageError
        If no scheduler answers at the given address.
    ConfigError
        If the cluster profile cannot be used.
    """
    left = set(range(len(jobs)))
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        client = _client(stack, scheduler, cluster, workers)
        crew = _Crew(client, QUEUE_TIMEOUT_S if cluster else NO_WORKER_TIMEOUT_S)
        suspects: list[int] = []
        try:
            for alone in (False, True):
                todo, suspects = (suspects if alone else sorted(left)), []
                for index, outcome in _in_flight(crew, function, jobs, todo, alone):
                    if outcome is None:
                        # A worker that dies takes the jobs that wait behind the guilty one
                        # with it: each is tried once more, alone.
                        suspects.append(index)
                        continue
                    left.discard(index)
                    yield JobOutcome(index, *outcome)
            for index in suspects:
                left.discard(index)
                yield JobOutcome(index, None, worker_died(jobs[index]))
        except _GoneError as gone:
            LOGGER.error("%s; %d jobs are not done", gone, len(left))
            for index in sorted(left):
                yield JobOutcome(
                    index, None, LostError(subject_of(jobs[index]), str(gone), RESTART)
                )


class _Crew:
    """The workers of a scheduler, looked after now and then."""

    def __init__(self, client: Any, patience_s: float) -> None:
        self.client = client
        self._patience_s = patience_s
        self._last_seen = time.monotonic()
        self._last_look = float("-inf")
        self._threads = 1

    def width(self) -> int:
        """Jobs to keep submitted.

        Raises
        ------
        _GoneError
            If the scheduler does not answer, or has had no worker for too long.
        """
        if self.client.status != "running":
            raise _GoneError("the dask scheduler was lost")
        now = time.monotonic()
        if now - self._last_look >= LOOK_EVERY_S:
            self._last_look = now
            workers = self._workers()
            if workers:
                self._last_seen = now
                self._threads = sum(int(worker.get("nthreads", 1)) for worker in workers)
            elif now - self._last_seen > self._patience_s:
                raise _GoneError("the dask scheduler has no worker that takes work")
        return max(1, self._threads) * AHEAD

    def _workers(self) -> list[dict[str, Any]]:
        identity = self.client.scheduler.identity
        try:
            found = self.client.sync(identity, n_workers=-1, callback_timeout=ANSWER_TIMEOUT_S)
        except (OSError, TimeoutError, RuntimeError):
            raise _GoneError("the dask scheduler was lost") from None
        # A worker near its memory limit is paused: it is there, and takes no work.
        return [w for w in found["workers"].values() if w.get("status", "running") == "running"]


def _in_flight(
    crew: _Crew,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    indices: Sequence[int],
    alone: bool,
) -> Iterator[tuple[int, tuple[Any, Any] | None]]:
    """Keep jobs submitted; yield each that ended with its outcome (None: lost with a worker)."""
    todo = deque(indices)
    running: dict[int, Any] = {}
    rest_s = _REST_S[0]
    while todo or running:
        width = crew.width()
        while todo and len(running) < (1 if alone else width):
            index = todo.popleft()
            # Not pure: equal jobs are still run each, and nothing is kept by content.
            running[index] = crew.client.submit(guarded, function, jobs[index], 1, pure=False)
        ended = [index for index, future in running.items() if future.done()]
        for index in ended:
            future = running.pop(index)
            yield index, _outcome(future)
            future.release()
        rest_s = _REST_S[0] if ended else min(2 * rest_s, _REST_S[1])
        if not ended:
            time.sleep(rest_s)


def _outcome(future: Any) -> tuple[Any, Any] | None:
    if future.status == "cancelled":
        raise _GoneError("the dask scheduler was lost")
    if future.status != "finished":
        return None
    try:
        # Its worker may be gone since: then the job is done again somewhere else, if it can be.
        outcome: tuple[Any, Any] = future.result(timeout=ANSWER_TIMEOUT_S)
    except Exception as error:
        LOGGER.warning("a result was lost with its worker (%s)", type(error).__name__)
        return None
    return outcome


def _local_cluster(stack: ExitStack, workers: int) -> Any:
    """A scheduler and workers of this machine, for those who want to watch them.

    Every other user of the machine can reach its ports. So they speak TLS with certificates that
    are made for this cluster, are never written to a file, and end with it: who has none can
    neither send work nor ask for results.
    """
    library = _library()
    try:
        security = library.Security.temporary()
    except ImportError:
        raise UsageError(
            "--scheduler local", "needs the package cryptography", "pip install cryptography"
        ) from None
    try:
        cluster = stack.enter_context(
            library.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="tls://127.0.0.1",
                security=security,
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
            )
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        kind = type(error).__name__
        raise UsageError(
            "--scheduler local", f"cannot be started ({kind})", "leave the option out"
        ) from None
    LOGGER.warning("dask dashboard: %s", cluster.dashboard_link)
    return cluster


@cache  # once, and not again in each stage
def _warn_of_open_door(address: str) -> None:
    """Say that a scheduler without TLS takes work, and gives data, to whoever reaches its port."""
    if address.partition("://")[0] in ("tls", "wss", "ucx"):
        return
    LOGGER.warning(
        "THE SCHEDULER IS OPEN: %s speaks no TLS, so that everybody who can reach its port can run "
        "programs as you and read what is sent; start scheduler and workers with TLS and give "
        "its tls:// address (docs/security.md).",
        address,
    )


def _client(stack: ExitStack, scheduler: str | None, cluster: Path | None, workers: int = 1) -> Any:
    library = _library()
    if scheduler == LOCAL:
        return stack.enter_context(library.Client(_local_cluster(stack, workers)))
    if cluster is None:
        _warn_of_open_door(str(scheduler))
        try:
            return stack.enter_context(library.Client(scheduler, timeout=CONNECT_TIMEOUT_S))
        except (OSError, ValueError, ImportError, TypeError):
            raise UsageError(
                "--scheduler",
                f"no dask scheduler answers at {scheduler}",
                "start one with 'dask scheduler', or leave the option out",
            ) from None
    from pathology_scaat.execution.job_queue import start_cluster

    client = stack.enter_context(library.Client(stack.enter_context(start_cluster(cluster))))
    try:
        client.wait_for_workers(1, timeout=QUEUE_TIMEOUT_S)
    except TimeoutError:
        raise ConfigError(
            cluster.name, "the queue started no worker within an hour", "check the queue"
        ) from None
    return client
