from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pathology_scaat.artifacts.atomic import atomic_path, partial_path
from pathology_scaat.artifacts.leases import (
    LeasedJob,
    is_leased,
    lease,
    lease_path,
    run_leased,
)
from pathology_scaat.artifacts.leftovers import find_partials, sweep_partials
from pathology_scaat.errors import LeaseError
from pathology_scaat.system.processes import machine_id, owner_is_dead, owner_tag

pytestmark = pytest.mark.skipif(not machine_id(), reason="this system tells no boot id")

HOLDER = """
import sys, time
from pathlib import Path
from pathology_scaat.artifacts.leases import lease
from pathology_scaat.artifacts.atomic import atomic_path, partial_path
with lease(Path(sys.argv[1])), atomic_path(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "piece").write_text("half")
    print("holding", flush=True)
    time.sleep(600)
"""

RACER = """
import sys, time
from pathlib import Path
from pathology_scaat.errors import LeaseError
from pathology_scaat.artifacts.leases import lease
artifact, log, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for i in range(30):
    try:
        with lease(artifact, stale_after_s=0.0 if name == "never" else 60):
            (log / f"{name}-{i}").write_text(f"{time.monotonic_ns()}")
            inside = log / "inside"
            inside.touch(exist_ok=False)  # fails if two are inside at once
            time.sleep(0.002)
            inside.unlink()
    except LeaseError:
        time.sleep(0.003)
"""


def start_holder(artifact: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(artifact)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    return holder


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    artifact = tmp_path / "patches" / "s.zarr"
    with lease(artifact):
        assert is_leased(artifact)
        with pytest.raises(LeaseError, match="another run right now"), lease(artifact):
            pass
    assert not is_leased(artifact)
    assert not lease_path(artifact).exists()


def test_a_live_process_keeps_its_lease_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    artifact = tmp_path / "s.zarr"
    holder = start_holder(artifact)
    with pytest.raises(LeaseError), lease(artifact, stale_after_s=0.0):
        pass
    assert sweep_partials(tmp_path, older_than_s=0.0) == []
    kill(holder)
    assert not is_leased(artifact)
    assert len(find_partials(tmp_path)) == 1
    assert sweep_partials(tmp_path) == ["s.zarr"]
    with lease(artifact):
        assert is_leased(artifact)
    assert [p.name for p in tmp_path.iterdir()] == [".leases.lock"]


def test_of_many_that_take_over_a_stale_lease_one_gets_it(tmp_path: Path) -> None:
    artifact, log = tmp_path / "s.zarr", tmp_path / "log"
    log.mkdir()
    kill(start_holder(artifact))
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(artifact), str(log), name])
        for name in "abcd"
    ]
    assert [r.wait(60) for r in racers] == [0, 0, 0, 0]
    assert len(list(log.iterdir())) >= 4


def test_a_lease_from_another_machine_goes_by_its_heartbeat(tmp_path: Path) -> None:
    artifact = tmp_path / "s.zarr"
    foreign = {"token": "x", "pid": 1, "began": 1, "machine": "other0"}
    lease_path(artifact).write_text(json.dumps(foreign), encoding="utf-8")
    with pytest.raises(LeaseError), lease(artifact):
        pass
    old = time.time() - 61
    os.utime(lease_path(artifact), (old, old))
    with lease(artifact):
        pass


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b"[" * 4000, b'{"pid": "x"}'])
def test_a_damaged_lease_goes_stale_by_time(tmp_path: Path, damage: bytes) -> None:
    artifact = tmp_path / "s.zarr"
    lease_path(artifact).write_bytes(damage)
    with pytest.raises(LeaseError), lease(artifact):
        pass
    old = time.time() - 61
    os.utime(lease_path(artifact), (old, old))
    with lease(artifact):
        pass


def test_heartbeat_touches_and_notices_a_takeover(tmp_path: Path) -> None:
    artifact = tmp_path / "s.zarr"
    with lease(artifact, heartbeat_s=0.05) as held:
        os.utime(held.path, (1, 1))
        time.sleep(0.3)
        assert held.path.stat().st_mtime > 1
        other = {"token": "other", "pid": os.getpid(), "began": 1, "machine": "other0"}
        held.path.write_text(json.dumps(other), encoding="utf-8")
        assert held.lost.wait(2)
    assert held.path.exists()  # the other's lease is not removed


def test_waiting_ends_when_the_other_ends(tmp_path: Path) -> None:
    artifact = tmp_path / "s.zarr"
    inside = threading.Event()

    def other() -> None:
        with lease(artifact):
            inside.set()
            time.sleep(0.3)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with pytest.raises(LeaseError):
        run_leased(LeasedJob(len, "abc", artifact))
    assert run_leased(LeasedJob(len, "abc", artifact, wait=True)) == 3
    thread.join()


def test_a_lease_names_nobody(tmp_path: Path) -> None:
    with lease(tmp_path / "s.zarr") as held:
        content = json.loads(held.path.read_text(encoding="utf-8"))
    assert set(content) == {"token", "pid", "began", "machine"}


def test_partials_of_the_living_and_of_unknown_makers_stay(tmp_path: Path) -> None:
    unknown = partial_path(tmp_path / "a.zarr", tag="other0-1")
    unknown.mkdir()
    (unknown / "x").touch()
    with atomic_path(tmp_path / "b.zarr") as partial:
        partial.mkdir()
        assert sweep_partials(tmp_path, older_than_s=3600) == []
        assert partial.exists()
    assert unknown.exists()
    assert sweep_partials(tmp_path, older_than_s=-1) == ["a.zarr"]
    assert not owner_is_dead(owner_tag())


def test_publishing_a_folder_at_the_same_time_as_another(tmp_path: Path) -> None:
    final = tmp_path / "x.zarr"
    failures: list[BaseException] = []

    def publish() -> None:
        try:
            for _ in range(50):
                with atomic_path(final) as partial:
                    partial.mkdir()
                    (partial / "zarr.json").write_text('{"pathology_scaat": 1}')
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [p.name for p in tmp_path.iterdir()] == ["x.zarr"]
    assert (final / "zarr.json").exists()
