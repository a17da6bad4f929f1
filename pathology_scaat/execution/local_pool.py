"""Jobs in processes of this machine, over pipes that nobody else can reach.

Dask's own local cluster listens on loopback ports, where any user of the machine may
connect and run code as this one; a pipe has no name and no port. Each worker has one job at
a time, so that a worker's death is that job's and no other's.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pathology_scaat.artifacts.atomic import remove_unfinished
from pathology_scaat.artifacts.leases import release_all
from pathology_scaat.errors import UsageError
from pathology_scaat.execution.jobs import JobOutcome, guarded, worker_died
from pathology_scaat.system.memory import REMEDY
from pathology_scaat.system.signals import raise_on, unseen_by_children

ENDING_S = 10.0
"""Time for workers to clean up when they are ended; then they are killed."""

FAILED_STARTS_ALLOWED = 3
"""Workers in a row that may die before they are ready for a job."""

_READY = b"ready"


# --- in the worker -------------------------------------------------------------------------


def _watch_parent() -> None:
    """End with the parent: a job must not go on when nobody waits for its result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _ended() -> SystemExit:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the cleaning up must not be broken off
    return SystemExit(143)


def _work(pipe: Connection, threads: int) -> None:
    try:
        _work_until_closed(pipe, threads)
    finally:
        remove_unfinished()
        release_all()


def _work_until_closed(pipe: Connection, threads: int) -> None:
    """Receive a job, run it, send what became of it; until the pipe closes."""
    # Where the system must kill somebody for memory, the one who can still tell shall live.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("1000")
    # What dying libraries shout is told in one sentence; Python's errors go to the log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on(signal.SIGTERM, _ended)
    threading.Thread(target=_watch_parent, daemon=True).start()
    pipe.send_bytes(_READY)
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        # Unpacking imports what the job needs, which may fail as any work may.
        unpacked, error = guarded(pickle.loads, message)
        outcome: tuple[Any, Any] = (None, error)
        if unpacked is not None:
            function, job = unpacked
            outcome = guarded(function, job, threads)
        packed, error = guarded(pickle.dumps, outcome)
        pipe.send_bytes(packed if packed is not None else pickle.dumps((None, error)))


# --- in the process that asks --------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    """A process, our end of its pipe, and the index of the job it has."""

    process: BaseProcess
    pipe: Connection
    ready: bool = False
    job: int | None = None


class _Pool:
    def __init__(self, threads: int) -> None:
        self.workers: list[_Worker] = []
        self._threads = threads
        self._failed_starts = 0

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, self._threads), daemon=True)
            # Its first start would unblock the signal again in the thread that starts it.
            resource_tracker.ensure_running()
            # A terminal sends Ctrl-C to every process of the command: only this one is to
            # answer, and to end the others.
            with unseen_by_children(signal.SIGINT):
                process.start()
        except OSError as error:
            raise _no_worker(error.strerror or "refused") from None
        theirs.close()  # so that the pipe ends when the worker does
        self.workers.append(_Worker(process, ours))

    def give(self, worker: _Worker, function: Callable[[Any], Any], index: int, job: Any) -> None:
        worker.job = index
        with suppress(OSError):  # it has died; that is seen, and counted, when we wait for it
            worker.pipe.send_bytes(pickle.dumps((function, job)))

    def events(self) -> Iterator[tuple[_Worker, bytes | None]]:
        """Wait; yield each worker that said something (None: it died)."""
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv_bytes()
            except (EOFError, OSError):
                self._bury(worker)
                yield worker, None
                continue
            if worker.ready:
                yield worker, message
            else:
                worker.ready, self._failed_starts = True, 0

    def _bury(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS_ALLOWED:
                raise _no_worker("out of memory?")

    def close(self, *, gently: bool) -> None:
        """End all workers; gently where they are idle, else by a signal they clean up at."""
        for worker in self.workers:
            worker.pipe.close()
            if not gently:
                worker.process.terminate()
        end = time.monotonic() + ENDING_S
        for worker in self.workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()
        self.workers.clear()


def _no_worker(why: str) -> UsageError:
    return UsageError("--workers", f"no worker process can be started ({why})", REMEDY)


def run_in_processes(
    function: Callable[[Any], Any], jobs: Sequence[Any], processes: int, threads: int
) -> Iterator[JobOutcome[Any]]:
    """Run jobs in local processes; yield each outcome as it comes.

    A job whose worker dies is tried once more when the others are done, alone: memory that
    ran out with several workers may be enough for one.

    Raises
    ------
    UsageError
        If no worker process can be started.
    """
    pool = _Pool(threads)
    gently = False
    try:
        lost: list[int] = []
        yield from _run(pool, function, jobs, range(len(jobs)), processes, lost)
        again: list[int] = []
        yield from _run(pool, function, jobs, sorted(lost), 1, again)
        for index in again:
            yield JobOutcome(index, None, worker_died(jobs[index]))
        gently = True
    finally:
        pool.close(gently=gently)


def _run(
    pool: _Pool,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    indices: Sequence[int],
    processes: int,
    lost: list[int],
) -> Iterator[JobOutcome[Any]]:
    """One pass over some jobs with so many processes; those that killed theirs go to ``lost``."""
    todo = deque(indices)
    while todo or any(worker.job is not None for worker in pool.workers):
        busy = sum(worker.job is not None for worker in pool.workers)
        while len(pool.workers) < min(processes, busy + len(todo)):
            pool.start()
        for worker in pool.workers:
            if todo and worker.job is None and busy < processes:
                index = todo.popleft()
                pool.give(worker, function, index, jobs[index])
                busy += 1
        for worker, message in pool.events():
            index_done, worker.job = worker.job, None
            if index_done is None:
                continue
            if message is not None:
                yield JobOutcome(index_done, *pickle.loads(message))  # noqa: S301  (from our worker)
            elif worker.ready:
                lost.append(index_done)
            else:
                todo.appendleft(index_done)
