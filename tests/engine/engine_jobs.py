"""Functions that worker processes import by name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.engine import job_threads
from pathology_scaat.errors import SlideOpenError
from pathology_scaat.patches import TileJob, TileResult, tile_slide


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


@dataclass(frozen=True)
class FragileJob:
    """A job whose worker dies in the middle of it the first time."""

    job: TileJob
    mark: Path | None

    @property
    def slide_id(self) -> str:
        return self.job.slide_id


def tile_once_killed(fragile: FragileJob) -> TileResult:
    if fragile.mark is not None and not fragile.mark.exists():
        fragile.mark.touch()
        signal.setitimer(signal.ITIMER_REAL, 0.15)  # SIGALRM ends the process
    return tile_slide(fragile.job)
