"""A real dask.distributed cluster on loopback whose parts can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forked_command import ForkedProcess, start_forked


def wait_until(condition: Callable[[], Any], seconds: float, every_s: float = 0.01) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(every_s)
    return False


LOG_NAME = "log.txt"

Process = ForkedProcess | subprocess.Popen[bytes]

VARIABLES = {
    "OMP_NUM_THREADS": "1",
    # One worker lost is enough for a job to be given up: the engine tries it again.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
}


class LoopbackCluster:
    """A scheduler and workers, each a process of its own without a nanny.

    They are forks of a process that has loaded the libraries, but for workers with a nanny.
    """

    def __init__(self, folder: Path, workers: int, *worker_options: str) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self.log = folder / LOG_NAME  # of the scheduler and of all workers
        self.scheduler = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self._file),
        )  # fmt: skip
        assert wait_until(self._written_address, 60), "no scheduler"
        self.address = self._written_address()
        options = worker_options or ("--no-nanny", "--memory-limit", "0")
        self.workers = [
            self._start(
                "dask_worker", self.address, "--nthreads", "1", "--no-dashboard", "--name", str(n),
                "--local-directory", str(folder / f"scratch{n}"), *options,
            )
            for n in range(workers)
        ]  # fmt: skip

    def _written_address(self) -> str:
        """What the scheduler's file says; empty while it is not there or half written."""
        try:
            return str(json.loads(self._file.read_text(encoding="utf-8"))["address"])
        except (FileNotFoundError, json.JSONDecodeError):
            return ""

    def _start(self, module: str, *words: str) -> Process:
        name = f"distributed.cli.{module}"
        if "--nanny" not in words:
            return start_forked(
                name, words, output=self.log, folder=self._folder, environment=VARIABLES
            )
        # A nanny starts Python anew itself, and counts the memory of its worker.
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", name, *words],
                stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
                env={**os.environ, **VARIABLES},
            )  # fmt: skip

    @staticmethod
    def kill(process: Process) -> None:
        """``kill -9`` of a process and all it started."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def loopback_cluster(
    folder: Path, workers: int = 2, *worker_options: str
) -> Iterator[LoopbackCluster]:
    folder.mkdir()
    cluster = LoopbackCluster(folder, workers, *worker_options)
    try:
        yield cluster
    finally:
        for process in (*cluster.workers, cluster.scheduler):
            cluster.kill(process)
