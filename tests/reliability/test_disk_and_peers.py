"""A full disk, a read-only folder, another run on the same folder, a worker that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability_tools import digest, make_cohort, run_scaat, tile_states

TILE = ("--mpp", "0.5", "--patch-size", "32", "--quiet")


def background(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pathology_scaat", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@contextlib.contextmanager
def small_disk(mount_point: Path, size: str) -> Iterator[Path]:
    """A file system of a given size; skips the test where none can be mounted."""
    mount_point.mkdir()
    done = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount_point)],
            capture_output=True,
            text=True,
            check=False,
        )
        if sys.platform == "linux" and os.geteuid() == 0
        else None
    )
    if done is None or done.returncode:
        pytest.skip("no small file system can be mounted here (needs root on Linux)")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), side_px=512)


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run_scaat(
        "tile", "--manifest", cohort, "--out", out, "--workers", 1, *TILE, in_process=True
    )
    assert done.returncode == 0, done.stderr
    return digest(out)


def test_a_full_disk_is_reported_and_a_re_run_goes_on(
    cohort: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "600k") as disk:
        out = disk / "out"
        args = ("tile", "--manifest", cohort, "--out", out, "--workers", 1, *TILE)
        done = run_scaat(*args, in_process=True)
        assert done.returncode in {2, 3}
        assert "Traceback" not in done.stderr
        assert "space" in done.stderr or "disk" in done.stderr
        found = tile_states(out) if (out / "slides.csv").exists() else {}
        assert "failed" in found.values() or done.returncode == 2
        for slide_id, state in found.items():
            assert (state == "done") == (out / "patches" / f"{slide_id}.zarr").exists()
        assert not list(out.rglob("*.partial-*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = run_scaat(*args, in_process=True)
        assert again.returncode == 0, again.stderr
        assert digest(out) == undisturbed


def test_a_disk_that_fills_at_any_point_is_never_believed(
    cohort: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    for number, size in enumerate(("4k", "40k", "200k", "1000k", "2200k")):
        with small_disk(tmp_path / f"disk{number}", size) as disk:
            out = disk / "out"
            args = ("tile", "--manifest", cohort, "--out", out, "--workers", 1, *TILE)
            done = run_scaat(*args, in_process=True)
            assert done.returncode in {0, 2, 3}
            assert "Traceback" not in done.stderr
            assert "internal error" not in done.stderr
            if (out / "slides.csv").exists():
                for slide_id, state in tile_states(out).items():
                    path = out / "patches" / f"{slide_id}.zarr"
                    assert state != "done" or path.exists()
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            assert run_scaat(*args, in_process=True).returncode == 0
            assert digest(out) == undisturbed


def test_a_read_only_folder_is_one_sentence(cohort: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = run_scaat("tile", "--manifest", cohort, "--out", disk, *TILE, in_process=True)
        assert done.returncode == 2
        assert "cannot be written" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_file_in_place_of_the_folder_is_one_sentence(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("a file", encoding="utf-8")
    done = run_scaat("tile", "--manifest", cohort, "--out", out, *TILE, in_process=True)
    assert done.returncode == 2
    assert "internal error" not in done.stderr
    assert out.read_text(encoding="utf-8") == "a file"


def test_two_runs_at_once_make_each_slide_once(
    cohort: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("tile", "--manifest", cohort, "--out", out, "--workers", 1, *TILE)
    runs = [background(*args) for _ in range(2)]
    said = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert digest(out) == undisturbed
    assert set(tile_states(out).values()) == {"done"}
    made = [int(out_text.split("tile: ")[1].split(" done")[0]) for out_text, _ in said]
    assert sum(made) == 3, said


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_ends_workers_too(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = subprocess.Popen(
        [
            sys.executable, "-m", "pathology_scaat", "tile", "--manifest", str(cohort),
            "--out", str(out), "--workers", "2", "--mpp", "0.05", "--patch-size", "64",
            "--overlap", "0.75", "--allow-upsampling", "-q",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background has Ctrl-C ignored, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    end = time.monotonic() + 90
    while not list(out.glob("patches/*.partial-*")) and time.monotonic() < end:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    for _ in range(100):
        if not group_members(run.pid):
            break
        time.sleep(0.1)
    assert group_members(run.pid) == []


def group_members(group: int) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_killed_parent_leaves_no_workers(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = subprocess.Popen(
        [
            sys.executable, "-m", "pathology_scaat", "tile", "--manifest", str(cohort),
            "--out", str(out), "--workers", "2", "--mpp", "0.05", "--patch-size", "64",
            "--overlap", "0.75", "--allow-upsampling", "-q",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 90
    while not list(out.glob("patches/*.partial-*")) and time.monotonic() < end:
        assert run.poll() is None
        time.sleep(0.05)
    run.kill()
    run.wait()
    for _ in range(300):
        if not group_members(run.pid):
            break
        time.sleep(0.1)
    assert group_members(run.pid) == []
