"""Processes that are started before their jobs are known: they do them, or end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from engine_jobs import leave_pid, leave_pid_and_fail, pid_after

from pathology_scaat.execution.engine import EngineConfig, map_jobs
from pathology_scaat.execution.local_pool import StartedWorkers


def pids_in(folder: Path, n: int) -> set[int]:
    """Of the processes that have got ready; waits for so many."""
    end = time.monotonic() + 60
    while len(found := {int(path.name) for path in folder.iterdir()}) < n:
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("get_ready", [leave_pid, leave_pid_and_fail])
def test_they_do_the_jobs(tmp_path: Path, get_ready: object) -> None:
    """Also where getting ready fails: that is for the jobs to say."""
    with StartedWorkers(2, get_ready, tmp_path) as started:  # type: ignore[arg-type]
        ready = pids_in(tmp_path, 2)
        jobs = [0.05] * 4
        outcomes = list(map_jobs(pid_after, jobs, EngineConfig(workers=2), started=started))
        assert {one.result for one in outcomes} <= ready
        assert started.take() is None
        again = list(map_jobs(pid_after, [0.0], EngineConfig(workers=2), started=started))
    assert again[0].result not in ready  # new ones: those of before have ended
    assert not any(Path(f"/proc/{pid}").exists() for pid in ready)


def test_one_process_too(tmp_path: Path) -> None:
    with StartedWorkers(1, leave_pid, tmp_path) as started:
        (ready,) = pids_in(tmp_path, 1)
        (outcome,) = map_jobs(pid_after, [0.0], EngineConfig(workers=1), started=started)
    assert outcome.result == ready != os.getpid()


def test_those_that_nobody_took_end(tmp_path: Path) -> None:
    with (  # noqa: PT012  (the error comes in the middle of the block)
        pytest.raises(KeyboardInterrupt),
        StartedWorkers(2, leave_pid, tmp_path),
    ):
        ready = pids_in(tmp_path, 2)
        raise KeyboardInterrupt
    assert not any(Path(f"/proc/{pid}").exists() for pid in ready)
