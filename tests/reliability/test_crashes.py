"""Killed at any moment: nothing half-made is taken for whole, and a re-run ends in the same bytes.

``SCAAT_KILLS=200`` tries more moments; ``SCAAT_SEED`` tries others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("crash_driver.py")
KILLS = int(os.environ.get("SCAAT_KILLS", "20"))
SEED = os.environ.get("SCAAT_SEED", "0")


def drive(*arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), "--seed", SEED, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    wrong = ("faults", "reruns_failed", "reruns_different", "left_behind")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0), done.stdout
    return found


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks of one process")
@pytest.mark.timeout(max(300, KILLS * 15))
def test_kill_9_at_random_moments_of_every_stage() -> None:
    found = drive("--kills", KILLS)
    assert isinstance(found["killed_in_work"], int)
    assert found["killed_in_work"] >= KILLS // 2
    assert set(found["exits"]) <= {-9, 0}  # type: ignore[call-overload]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks of one process")
@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130)])
def test_a_polite_end_cleans_up_and_says_so(name: str, code: int) -> None:
    found = drive("--kills", 3, "--signal", name, "--stages", "tile,train,export")
    assert set(found["exits"]) <= {code, 0}  # type: ignore[call-overload]
    assert found["with_partials"] == 0
