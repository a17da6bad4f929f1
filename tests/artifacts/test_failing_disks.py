"""A disk that fails between two steps: what was there stays, and nothing is given up early."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathology_scaat.artifacts import atomic, leases
from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.disk_probe import probe_disk
from pathology_scaat.artifacts.failure_log import log_failure
from pathology_scaat.artifacts.leases import LeasedJob, lease, lease_path, run_leased
from pathology_scaat.artifacts.redaction import PATH_SETTINGS, redact, scrub
from pathology_scaat.artifacts.status_columns import STATES
from pathology_scaat.artifacts.table_cells import safe_cell
from pathology_scaat.errors import ScaatError
from pathology_scaat.pipeline.config import RunConfig
from pathology_scaat.system import signals
from pathology_scaat.system.exchange import exchange


def make(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.mkdir()
        (partial / "zarr.json").write_text(f'{{"pathology_scaat": "{text}"}}')


def content(path: Path) -> str:
    return (path / "zarr.json").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_the_old_artifact_outlives_a_second_rename_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    final = tmp_path / "x.zarr"
    make(final, "old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            make(final, "new")
    assert "old" in content(final)
    assert names(tmp_path) == ["x.zarr"]
    make(final, "new")
    assert "new" in content(final)
    assert names(tmp_path) == ["x.zarr"]


def test_an_interrupt_between_two_renames_leaves_an_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "x.zarr"
    make(final, "old")

    def interrupt(partial: Path, target: Path) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    monkeypatch.setattr(atomic, "_moved", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(final, "new")
    assert "old" in content(final)
    assert names(tmp_path) == ["x.zarr"]


def test_two_folders_change_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot")
    assert (tmp_path / "a" / "who").read_text() == "b"
    assert (tmp_path / "b" / "who").read_text() == "a"
    assert not exchange(tmp_path / "a", tmp_path / "absent")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_heartbeat_outlives_reads_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    artifact = tmp_path / "x.zarr"
    real, failures = leases.read_own, []

    def sometimes(path: Path, max_bytes: int) -> bytes:
        if threading.current_thread().name == "lease" and len(failures) < 3:
            failures.append(path)
            raise OSError(number, os.strerror(number))
        return real(path, max_bytes)

    monkeypatch.setattr(leases, "read_own", sometimes)
    with lease(artifact, heartbeat_s=0.02) as held:
        os.utime(lease_path(artifact), (0, 0))
        end = time.monotonic() + 10
        while lease_path(artifact).stat().st_mtime < 1 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(failures) == 3
        assert lease_path(artifact).stat().st_mtime > 1  # it beats on
        assert not held.lost.is_set()


def _taken_over_once(seen: Path) -> str:
    """A job during which, the first time, another run takes the lease and ends."""
    first = not seen.exists()
    seen.write_text("x")
    if first:
        path = lease_path(seen.parent / "x.zarr")
        path.unlink()
        time.sleep(0.4)
    return "first" if first else "second"


def test_a_job_whose_lease_was_lost_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = leases._Held
    monkeypatch.setattr(leases, "_Held", lambda lease, beat: real(lease, 0.02))
    job = LeasedJob(_taken_over_once, tmp_path / "seen", tmp_path / "x.zarr")
    assert run_leased(job) == "second"


def test_without_times_by_descriptor_the_lock_file_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows knows files by their names only."""
    real = os.utime

    def by_name(path: Any, *rest: Any, **more: Any) -> None:
        if isinstance(path, int):
            raise TypeError("utime: path should be string, bytes or os.PathLike, not int")
        real(path, *rest, **more)

    monkeypatch.setattr(os, "utime", by_name)
    monkeypatch.setattr(os, "supports_fd", set())
    monkeypatch.setattr(os, "supports_follow_symlinks", set())
    artifact = tmp_path / "x.zarr"
    lease_path(artifact).write_text("{}")
    with (
        pytest.raises(ScaatError, match="being made by another run"),
        lease(artifact, stale_after_s=60),
    ):
        pass


def test_a_probed_disk_is_left_as_it_was(tmp_path: Path) -> None:
    found = probe_disk(tmp_path)
    assert found is not None
    assert found.hard_links
    assert names(tmp_path) == []
    assert probe_disk(tmp_path / "absent") is None


def test_the_log_of_a_failure_holds_no_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = ScaatError("x", "failed", "run again")
    error.trace = (  # type: ignore[attr-defined]
        'File "Dr Smith/out/run.py", line 3\n'
        "PermissionError: [Errno 1] Operation not permitted: 'Dr Smith/out/a.partial' -> 'Smith'\n"
        'FileNotFoundError: [Errno 2] No such file or directory: "Dr Smith\'s/c"\n'
        "ValueError: cannot open Dr Smith/out/maps/x"
    )
    out = Path("Dr Smith/out")
    log_failure(out, "explain", "x", error)
    written = (out / "logs" / "explain.log").read_text()
    assert "Smith" not in written
    assert "Operation not permitted" in written


@pytest.mark.parametrize("user", ["hann", "viridis", "resnet18", "scaat"])
def test_settings_that_are_called_like_the_user_stay(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathology_scaat.artifacts import redaction

    monkeypatch.setattr(redaction, "_local_names", lambda: ((user, "<user>"),))
    assert scrub({"stitch": {"window": user}, "list": [user]}) == {
        "stitch": {"window": user},
        "list": [user],
    }
    assert scrub({"out": user, "manifest": f"{user}/a.csv"}) == {
        "out": "<user>",
        "manifest": "<user>/a.csv",
    }
    assert scrub({"note": f"made by {user}"}) == {"note": "made by <user>"}
    assert redact(user) == "<user>"


def _path_settings(model: Any) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        if "Path" in str(field.annotation):
            found.add(name)
        elif hasattr(field.annotation, "model_fields"):
            found |= _path_settings(field.annotation)
    return found


def test_every_setting_that_is_a_path_is_known() -> None:
    assert _path_settings(RunConfig) <= PATH_SETTINGS


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(0.5), "0.5"), (np.float64(-0.25), "-0.25"), (np.float32(0.1), "0.1"),
        (np.int64(-3), "-3"), (np.int32(7), "7"), (np.float32("nan"), ""), (np.inf, ""),
        (0.1, "0.1"), (1e-9, "1e-09"), (-2, "-2"), (True, "True"), (None, ""),
    ],
)  # fmt: skip
def test_numbers_of_numpy_are_numbers(value: object, text: str) -> None:
    assert safe_cell(value) == text


def test_no_state_is_never_written() -> None:
    assert STATES == ("pending", "done", "skipped", "failed")


def test_an_end_that_has_come_is_not_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_raised", [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        signals.raise_again()
    signals.forget_raised()
    signals.raise_again()
