"""What stands in its place lasts: synced before the rename, and the folder's name after it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reliability_tools import make_cohort

from pathology_scaat.artifacts.atomic import atomic_path, write_json
from pathology_scaat.system import fsync as durable


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """fsync and rename in the order in which they are called, with the paths."""
    seen: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        seen.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        real_fsync(descriptor)

    def replace(source: str, target: str, **options: int) -> None:
        seen.append(("move", os.fspath(target)))
        real_replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return seen


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
def test_a_file_is_synced_then_moved_then_its_folder_is(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    write_json(tmp_path / "new" / "x.json", {})
    kinds = [kind for kind, _ in calls]
    # the new folder's name, the file, the move, the file's name
    assert kinds == ["sync", "sync", "move", "sync"]
    assert calls[0][1] == str(tmp_path)
    assert ".partial-" in calls[1][1]
    assert calls[3][1] == str(tmp_path / "new")


@linux
@pytest.mark.parametrize("n_files", [2, 40])
def test_every_file_and_folder_of_a_store_is_synced_before_the_move(
    tmp_path: Path, calls: list[tuple[str, str]], n_files: int
) -> None:
    with atomic_path(tmp_path / "x.zarr") as partial:
        for number in range(n_files):
            path = partial / f"c{number % 3}" / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    moved = [kind for kind, _ in calls].index("move")
    before = {Path(path).relative_to(partial).as_posix() for _, path in calls[:moved]}
    final = tmp_path / "x.zarr"
    assert before == {".", *(path.relative_to(final).as_posix() for path in final.rglob("*"))}
    assert calls[moved + 1 :] == [("sync", str(tmp_path))]


def test_a_disk_that_fails_at_the_sync_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_json(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_sync_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(durable.os, "fsync", absent)
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_as_the_kernel_sees_it(tmp_path: Path) -> None:
    """Of a whole ``scaat tile``: nothing is renamed into place that was not synced before."""
    cohort, out, log = make_cohort(tmp_path), tmp_path / "out", tmp_path / "log"
    done = subprocess.run(
        [
            "strace", "-f", "-y", "-qq", "-o", str(log),
            "-e", "trace=fsync,rename,renameat,renameat2", "-e", "signal=none",
            sys.executable, "-m", "pathology_scaat", "tile", "--manifest", str(cohort), "--out",
            str(out), "--mpp", "1", "--patch-size", "32", "--workers", "0", "--quiet",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ptrace" in done.stderr.lower():
        pytest.skip("no process may be traced here")
    assert done.returncode == 0, done.stderr
    # A call that another thread's interrupts is written in two lines: its start has the path.
    synced: set[str] = set()
    moved: dict[str, set[str]] = {}
    after: set[str] = set()
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if found := re.search(r"fsync\(\d+<([^>]+)>", line):
            synced.add(found[1])
            after.add(found[1])
        elif (found := re.search(r'rename\w*\(.*"([^"]+)",.*"([^"]+)"', line)) and (
            str(out) in found[2] and ".partial-" in found[1] and ".partial-" not in found[2]
        ):
            moved[found[2]] = {name for name in synced if name.startswith(found[1])}
            after.discard(str(Path(found[2]).parent))
    for number in range(3):
        store = out / "patches" / f"slide-{number}.zarr"
        assert len(moved[str(store)]) == 1 + len(list(store.rglob("*")))
    assert {str(Path(path).parent) for path in moved} <= after
