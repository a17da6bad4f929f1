"""Clocks that are wrong, on this machine or on another one that shares the folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pathology_scaat.artifacts.atomic import atomic_path, partial_path
from pathology_scaat.artifacts.leases import lease, lease_path
from pathology_scaat.artifacts.leftovers import sweep_partials
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import LeaseError
from pathology_scaat.slides import fingerprint

FOREIGN = {"token": "x", "pid": 1, "began": 1, "machine": "other0"}
YEAR_S = 365 * 24 * 3600.0


def foreign_lease(artifact: Path, age_s: float) -> None:
    """A lease of another machine that was touched so long ago, by the file server's clock."""
    path = lease_path(artifact)
    path.write_text(json.dumps(FOREIGN), encoding="utf-8")
    then = time.time() - age_s
    os.utime(path, (then, then))


@pytest.mark.parametrize("offset_s", [-YEAR_S, -3600.0, 3600.0, YEAR_S])
def test_a_host_with_a_wrong_clock_takes_no_living_lease_and_waits_for_no_dead_one(
    tmp_path: Path, offset_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file server stamps both: the lease, and the lock that tells its time now."""
    real = time.time
    living, dead = tmp_path / "living.zarr", tmp_path / "dead.zarr"
    foreign_lease(living, 5)
    foreign_lease(dead, 61)
    monkeypatch.setattr(time, "time", lambda: real() + offset_s)
    with pytest.raises(LeaseError), lease(living):
        pass
    with lease(dead):
        pass


def test_a_clock_set_back_while_a_lease_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting goes by the clock that is never set; the process that holds is known to live."""
    real = time.time
    artifact = tmp_path / "a.zarr"
    with lease(artifact, heartbeat_s=0.05) as held:
        monkeypatch.setattr(time, "time", lambda: real() - YEAR_S)
        began = time.monotonic()
        with pytest.raises(LeaseError), lease(artifact, wait_s=0.3):
            pass
        assert time.monotonic() - began < 30
        assert not held.lost.is_set()
    StatusTable(tmp_path).update("a", "tile", "done")
    assert StatusTable(tmp_path).rows()[0]["tile"] == "done"


def test_unfinished_files_of_the_future_stay(tmp_path: Path) -> None:
    """Another machine's file that is younger than now is being made, whatever the clocks say."""
    path = partial_path(tmp_path / "a.zarr", tag="other0-1")
    path.write_bytes(b"x")
    os.utime(path, (time.time() + YEAR_S,) * 2)
    assert sweep_partials(tmp_path) == []
    assert path.exists()


def test_a_slide_from_the_future_is_hashed_each_time(tmp_path: Path) -> None:
    """What was written at a time that has not come yet may change within it unseen."""
    path = tmp_path / "x.svs"
    path.write_bytes(b"1")
    os.utime(path, (time.time() + YEAR_S,) * 2)
    first = fingerprint.slide_fingerprint(path)
    found = path.stat()
    path.write_bytes(b"2")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert fingerprint.slide_fingerprint(path) != first


def test_artifacts_do_not_depend_on_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - YEAR_S)
    with atomic_path(tmp_path / "a") as partial:
        partial.write_text("x", encoding="utf-8")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "x"
