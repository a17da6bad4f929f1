"""Functions that worker processes import by name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.execution.engine import job_threads

if TYPE_CHECKING:
    from pathology_scaat.patches import TileJob, TileResult


def square(value: int) -> int:
    return value * value


def threads(value: int) -> int:
    return job_threads()


def process(value: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def troubled(value: int) -> int:
    if value == 1:
        raise SlideOpenError("a.svs", "is broken", "mend it")
    if value == 2:
        raise ValueError("/a/secret/path")
    if value == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def unsendable(value: int) -> object:
    return lambda: value


def listening(value: int) -> list[str]:
    """What this machine's worker and its parent listen on."""
    import psutil

    parent = psutil.Process(os.getppid())
    found = []
    for process in (parent, *parent.children(recursive=True)):
        found += [str(c.laddr) for c in process.net_connections("all") if c.status == "LISTEN"]
        found += [str(c.laddr) for c in process.net_connections("unix") if c.laddr]
    return found


def waits_and_cleans_up(folder: Path) -> None:
    try:
        (folder / f"began-{os.getpid()}").touch()
        time.sleep(60)
    finally:
        (folder / f"cleaned-{os.getpid()}").touch()


def allocates(n_bytes: int) -> int:
    return len(bytearray(n_bytes))


@dataclass(frozen=True)
class FragileJob:
    """A job whose worker dies in the middle of it the first time."""

    job: TileJob
    mark: Path | None

    @property
    def slide_id(self) -> str:
        return self.job.slide_id


def tile_once_killed(fragile: FragileJob) -> TileResult:
    from pathology_scaat.patches import tile_slide

    if fragile.mark is not None and not fragile.mark.exists():
        fragile.mark.touch()
        signal.setitimer(signal.ITIMER_REAL, 0.15)  # SIGALRM ends the process
    return tile_slide(fragile.job)


def restrictions(value: int) -> dict[str, float] | None:
    """What the task that runs this asked its worker for."""
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]
    return dict(task.resource_restrictions) or None if task.resource_restrictions else None


def dies_once(job: tuple[Path, int]) -> int:
    """Job 0 kills its worker the first time; the second time it counts those still alive."""
    folder, number = job
    pids = [int(path.name.split("-")[1]) for path in folder.glob("worker-*")]
    if number == 0 and (folder / "died").exists():
        return sum(is_alive(pid) for pid in pids)
    (folder / f"worker-{os.getpid()}").touch()
    if number == 0:
        while len(list(folder.glob("worker-*"))) < 3:
            time.sleep(0.02)
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while not (folder / "died").exists():
        time.sleep(0.02)
    return -1


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def scheduler_address(_job: int) -> str:
    """Address of the scheduler of the worker that runs this."""
    from distributed import get_worker

    return str(get_worker().scheduler.address)


def leave_pid(folder: Path) -> None:
    (folder / str(os.getpid())).touch()


def leave_pid_and_fail(folder: Path) -> None:
    leave_pid(folder)
    raise SlideOpenError("slide", "cannot be read", "copy it again")


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()
