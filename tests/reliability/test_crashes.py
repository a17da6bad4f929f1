"""Killed at any moment: nothing half-made is taken for whole, and a re-run ends in the same bytes.

``SCAAT_KILLS=200`` tries more moments; ``SCAAT_SEED`` tries others.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from forked_command import start_forked

DRIVER = Path(__file__).with_name("crash_driver.py")
KILLS = int(os.environ.get("SCAAT_KILLS", "20"))
SEED = os.environ.get("SCAAT_SEED", "0")


POLITE = {"TERM": 143, "INT": 130}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks of one process"),
    pytest.mark.timeout(max(600, KILLS * 20)),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What the driver found, by signal: a fork of a process that has loaded the libraries."""
    plan = [f"KILL:{KILLS}", *(f"{name}:3" for name in POLITE)]
    output = tmp_path_factory.mktemp("crashes") / "output"
    driver = start_forked(
        DRIVER.stem, ["--seed", SEED, *plan], output=output, folder=DRIVER.parent, environment={}
    )
    code = driver.wait(max(600, KILLS * 20))
    said = output.read_text(encoding="utf-8")
    assert code == 0, said
    sums: dict[str, dict[str, object]] = json.loads(said.splitlines()[-1])
    wrong = ("faults", "reruns_failed", "reruns_different", "left_behind")
    none = dict.fromkeys(wrong, 0)
    assert all({name: of[name] for name in wrong} == none for of in sums.values()), said
    return sums


def test_kill_9_at_random_times_of_every_stage(found: dict[str, dict[str, object]]) -> None:
    kills = found["KILL"]
    assert kills["kills"] == KILLS
    assert isinstance(kills["killed_in_work"], int)
    assert kills["killed_in_work"] >= KILLS // 2
    assert set(kills["exits"]) <= {-9, 0}  # type: ignore[call-overload]


@pytest.mark.parametrize(("name", "code"), POLITE.items())
def test_a_polite_end_cleans_up_and_says_so(
    found: dict[str, dict[str, object]], name: str, code: int
) -> None:
    assert found[name]["kills"] == 3
    assert set(found[name]["exits"]) <= {code, 0}  # type: ignore[call-overload]
    assert found[name]["with_partials"] == 0
