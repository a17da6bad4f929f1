"""Dask's own scheduler over worker processes of this machine, connected by pipes.

A ``LocalCluster`` of dask.distributed listens on loopback ports, where any user of the machine
may connect and run code as this one; a pipe has no name and no port. Dask accepts any
``concurrent.futures`` executor, so its scheduler runs the graph on :class:`ProcessExecutor`:
threads of which each owns one process. The death of a process is then one job's matter.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pathology_scaat.artifacts.atomic import remove_unfinished
from pathology_scaat.artifacts.leases import release_all
from pathology_scaat.errors import UsageError
from pathology_scaat.execution.graph import Beside, OnProgress, Outcome, job_task
from pathology_scaat.execution.jobs import guarded, listen_to_progress, set_worker_number
from pathology_scaat.system.closing import Closing
from pathology_scaat.system.memory import REMEDY
from pathology_scaat.system.signals import raise_on, unseen_by_children
from pathology_scaat.system.worker_import import (
    IMPORTED_AGAIN,
    end_if_imported_by_worker,
    imported_again,
)

ENDING_S = 10.0
"""Time for workers to clean up when they are ended; then they are killed."""

FAILED_STARTS_ALLOWED = 3
"""Workers in a row that may die before they are ready for a job."""

_READY = b"ready"
_PROGRESS = b"progress "
"""Begins a message that says how much of the job is done; a pickle begins otherwise."""


# --- in the worker process -----------------------------------------------------------------


def _end_with_parent() -> None:
    """A job must not go on when nobody waits for its result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _on_sigterm() -> SystemExit:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cleaning up must not be interrupted
    return SystemExit(143)


def _serve(pipe: Connection, threads: int, number: int) -> None:
    try:
        _serve_until_closed(pipe, threads, number)
    finally:
        remove_unfinished()
        release_all()


def _serve_until_closed(pipe: Connection, threads: int, number: int) -> None:
    """Receive a job, run it, send its outcome; until the pipe closes."""
    # Where the kernel must kill a process for memory, the parent, which can report it, survives.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("1000")
    # Native libraries print to stderr as they die; Python's own errors go to the log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on(signal.SIGTERM, _on_sigterm)
    set_worker_number(number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    listen_to_progress(lambda share: pipe.send_bytes(_PROGRESS + str(share).encode()))
    pipe.send_bytes(_READY)
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        # Unpickling imports what the job needs, which may fail as any work may.
        unpickled, error = guarded(pickle.loads, message)
        outcome: tuple[Any, Any] = (None, error)
        if unpickled is not None:
            function, job = unpickled
            outcome = guarded(function, job, threads)
        pickled, error = guarded(pickle.dumps, outcome)
        pipe.send_bytes(pickled if pickled is not None else pickle.dumps((None, error)))


# --- in the parent process -----------------------------------------------------------------


class _Worker:
    """One worker process and our end of its pipe."""

    def __init__(self, threads: int, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            self.pipe, theirs = context.Pipe()
            self.process: BaseProcess = context.Process(
                target=_serve, args=(theirs, threads, number), daemon=True
            )
            # Starting the tracker later would unblock the signal again in this thread.
            resource_tracker.ensure_running()
            # A terminal sends Ctrl-C to every process of the command: only the parent answers,
            # and ends the others.
            with unseen_by_children(signal.SIGINT):
                self.process.start()
        except OSError as error:
            raise _no_worker(error.strerror or "refused") from None
        theirs.close()  # so that the pipe ends when the process does

    def receive(self) -> bytes | None:
        """The next message; None where the process has died."""
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _no_worker(reason: str) -> UsageError:
    return UsageError("--workers", f"no worker process can be started ({reason})", REMEDY)


class ProcessExecutor(ThreadPoolExecutor):
    """Threads of which each runs its jobs in a worker process of its own.

    Parameters
    ----------
    processes : int
        At most so many threads, and so processes; they start when there is work for them.
    threads_per_job : int
        How many threads a job may use (:func:`pathology_scaat.execution.jobs.job_threads`).
    """

    def __init__(self, processes: int, threads_per_job: int) -> None:
        end_if_imported_by_worker()
        super().__init__(processes, thread_name_prefix="worker")
        self._threads_per_job = threads_per_job
        self._own = threading.local()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._n_started = 0
        self._failed_starts = 0
        self._closing = False

    def run_in_worker(
        self,
        function: Callable[[Any], Any],
        job: Any,
        on_progress: Callable[[float], None] | None = None,
    ) -> Outcome | None:
        """Run a job in the calling thread's process; None where the process died under it.

        To be called on a thread of this executor.

        Raises
        ------
        UsageError
            If no worker process can be started.
        """
        worker = self._ready_worker()
        if worker is None:
            return None
        with suppress(OSError):  # it has died: seen, and counted, in the next line
            worker.pipe.send_bytes(pickle.dumps((function, job)))
        message = worker.receive()
        while message is not None and message.startswith(_PROGRESS):
            if on_progress is not None:
                on_progress(float(message.removeprefix(_PROGRESS)))
            message = worker.receive()
        if message is None:
            self._discard(worker)
            return None
        outcome: Outcome = pickle.loads(message)  # noqa: S301  (written by our own worker)
        return outcome

    def _ready_worker(self) -> _Worker | None:
        """This thread's process, started where there is none; None while closing."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        while worker is None:
            with self._lock:
                if self._closing:
                    return None
                worker = _Worker(self._threads_per_job, self._n_started)
                self._n_started += 1
                self._workers.append(worker)
            self._own.worker = worker
            if worker.receive() is None:
                worker.process.join(1)
                repeats_the_script = worker.process.exitcode == IMPORTED_AGAIN
                self._discard(worker)
                if repeats_the_script:
                    raise imported_again()
                worker = None
                with self._lock:
                    self._failed_starts += 1
                    if self._failed_starts >= FAILED_STARTS_ALLOWED and not self._closing:
                        raise _no_worker("out of memory?")
            else:
                self._failed_starts = 0
        return worker

    def _discard(self, worker: _Worker) -> None:
        self._own.worker = None
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
        if not self._closing:
            worker.kill()

    def close(self, *, idle: bool) -> None:
        """End all processes: idle ones by closing their pipes, else by SIGTERM."""
        with self._lock:
            self._closing = True
            workers = list(self._workers)
        for worker in workers:
            if idle:
                worker.pipe.close()
            else:
                worker.process.terminate()
        end = time.monotonic() + ENDING_S
        for worker in workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()
        self.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            worker.pipe.close()


class StartedWorkers(Closing):
    """Worker processes that are started, and made ready, before their jobs are known.

    Importing torch, loading a model and compiling it takes longer than explaining a slide does
    on a GPU; meanwhile the cores can do what comes before. A context manager: processes that
    nobody took are ended with it.

    Parameters
    ----------
    processes : int
        How many are started.
    function : callable
        Importable function of one job, which each of them runs at once; what it raises is left to
        the jobs that come after it.
    job : object
        Picklable.
    """

    def __init__(self, processes: int, function: Callable[[Any], Any], job: Any) -> None:
        self._executor: ProcessExecutor | None = ProcessExecutor(processes, 1)
        for _ in range(processes):
            self._executor.submit(self._executor.run_in_worker, function, job)

    def take(self) -> ProcessExecutor | None:
        """The processes, for the first who asks; who ends them."""
        taken, self._executor = self._executor, None
        return taken

    def close(self) -> None:
        """End the processes, in the middle of what they do, where nobody took them."""
        if (executor := self.take()) is not None:
            executor.close(idle=False)


class LocalBackend:
    """Runs a graph of jobs by Dask's scheduler on a :class:`ProcessExecutor`."""

    def __init__(self, processes: int, threads: int, started: StartedWorkers | None = None) -> None:
        self._processes = processes
        self._threads = threads
        self._started = started

    def run(
        self,
        function: Callable[[Any], Any],
        jobs: Sequence[Any],
        indices: Sequence[int],
        alone: bool,
        on_progress: OnProgress | None,
        beside: Beside,
    ) -> Iterator[tuple[int, Outcome | None]]:
        """Outcomes as they come; None for a job whose worker died under it.

        Jobs beside the batch wait in the same line as its own, so that neither waits for long;
        those that have not begun when it ends are left undone.

        A new executor each time, and one process where jobs are to be alone: memory that ran
        out with several workers may be enough for one, if the others are really gone.
        """
        processes = 1 if alone else min(self._processes, len(indices))
        started = None if alone or self._started is None else self._started.take()
        executor = started or ProcessExecutor(processes, self._threads)
        done: queue.SimpleQueue[tuple[int, Outcome | None] | BaseException] = queue.SimpleQueue()
        further: list[Future[Outcome | None]] = []

        def run_one(index: int) -> None:
            listener = None if on_progress is None else partial(on_progress, index)
            done.put((index, executor.run_in_worker(function, jobs[index], listener)))

        def run_beside(function: Callable[[Any], Any], job: Any) -> Outcome | None:
            try:
                return executor.run_in_worker(function, job)
            except UsageError:  # no process can be started: the batch itself says so
                return None

        def compute() -> None:
            from dask.base import compute as dask_compute

            try:
                tasks = [job_task(run_one, index) for index in indices]
                dask_compute(*tasks, scheduler="threads", pool=executor, optimize_graph=False)
            except BaseException as error:
                done.put(error)

        scheduler = threading.Thread(target=compute, daemon=True)
        idle = False
        try:
            scheduler.start()
            for _ in indices:
                item = done.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                further += [executor.submit(run_beside, *job) for job in beside.take()]
            for future in further:
                if not future.cancel():
                    beside.ended(future.result())
            idle = True
        finally:
            executor.close(idle=idle)
            scheduler.join()
