"""Too little memory: one sentence, true rows in slides.csv, the same bytes once there is more."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from loopback_cluster import wait_until
from reliability_tools import digest, make_cohort, run_scaat, tile_states

from pathology_scaat.system.memory import LEAST_BYTES, is_out_of_memory

TILE = ("--mpp", "0.5", "--patch-size", "32", "--quiet")
GROUPS = Path("/sys/fs/cgroup/memory")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux sets them"),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), side_px=352)


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    args = ("tile", "--manifest", cohort, "--out", out, "--workers", 0, *TILE)
    assert run_scaat(*args, in_process=True).returncode == 0
    return digest(out)


def assert_truth_and_re_run(
    cohort: Path, out: Path, undisturbed: dict[str, str], done: subprocess.CompletedProcess[str]
) -> None:
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "internal error" not in said
    states = tile_states(out) if (out / "slides.csv").exists() else {}
    for slide_id, state in states.items():
        assert state != "done" or (out / "patches" / f"{slide_id}.zarr").exists()
    args = ("tile", "--manifest", cohort, "--out", out, "--workers", 0, *TILE)
    again = run_scaat(*args, in_process=True)
    assert again.returncode == 0, again.stderr
    assert digest(out) == undisturbed
    assert not list(out.rglob("*.partial-*"))


@pytest.mark.parametrize("mebibytes", [250, 500, 800])
def test_address_space_that_is_too_small_is_one_sentence(
    cohort: Path, undisturbed: dict[str, str], tmp_path: Path, mebibytes: int
) -> None:
    out = tmp_path / "out"
    done = run_scaat(
        "tile", "--manifest", cohort, "--out", out, "--workers", 1, *TILE,
        memory_bytes=mebibytes << 20,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("scaat: ")]
    assert len(messages) == 1
    assert "memory" in messages[0]
    assert_truth_and_re_run(cohort, out, undisturbed, done)


def test_the_least_address_space_is_enough(
    cohort: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_scaat(
        "tile", "--manifest", cohort, "--out", out, "--workers", 1, *TILE,
        memory_bytes=LEAST_BYTES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert digest(out) == undisturbed


def inside(group: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command run in a control group, with everything that it starts."""
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    return subprocess.run(
        ["sh", "-c", enter, "sh", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        check=False,
    )


@contextlib.contextmanager
def control_group(n_bytes: int) -> Iterator[Path]:
    """A control group with so much memory; skips the test where none can be made."""
    folder = GROUPS / f"scaat-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no control group can be made here (needs root and version 1)")
    try:
        (folder / "memory.limit_in_bytes").write_text(str(n_bytes), encoding="ascii")
        # Where there is swap, a limit of memory alone makes things slow and ends nothing.
        (folder / "memory.swappiness").write_text("0", encoding="ascii")
        yield folder
    finally:
        # Helpers of a killed process end a little after it; a group that holds one stays.
        assert wait_until(lambda: removed(folder), 20)


def resident_bytes(group: Path) -> int:
    """Memory of a group that the system cannot take back."""
    counters = (group / "memory.stat").read_text(encoding="ascii").split()
    return int(counters[counters.index("total_rss") + 1])


@pytest.fixture(scope="module")
def needed_bytes(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The most that the command and one worker hold at once, with enough memory."""
    out = tmp_path_factory.mktemp("measured") / "out"
    words = ["tile", "--manifest", cohort, "--out", out, "--workers", 1, *TILE]
    with control_group(4 << 30) as group, ThreadPoolExecutor(1) as pool:
        # Limited, so that even one worker is a process of its own.
        run = pool.submit(inside, group, sys.executable, "-m", "pathology_scaat", *words)
        seen = [0]
        while not run.done():
            seen.append(resident_bytes(group))
            time.sleep(0.01)
        assert run.result().returncode == 0, run.result().stderr
    if not max(seen):
        pytest.skip("the system here does not count the memory of control groups")
    return max(seen)


def removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_the_system_kills_is_one_sentence(
    cohort: Path,
    undisturbed: dict[str, str],
    needed_bytes: int,
    tmp_path: Path,
    workers: int,
) -> None:
    out = tmp_path / "out"
    with control_group(int(0.85 * needed_bytes)) as group:
        greedy = f"len(bytearray(b'x') * {2 * needed_bytes})"
        if inside(group, sys.executable, "-c", greedy).returncode == 0:
            pytest.skip("the system here does not hold control groups to their limits")
        words = ["tile", "--manifest", cohort, "--out", out, "--workers", workers, *TILE]
        done = inside(group, sys.executable, "-m", "pathology_scaat", *words)
    assert done.returncode == 3, done.stderr
    assert "its worker process died (out of memory?)" in done.stderr
    assert "failed" in tile_states(out).values()
    assert_truth_and_re_run(cohort, out, undisturbed, done)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (ImportError("libtorch.so: failed to map segment from shared object"), True),
        (ValueError("RESOURCE_EXHAUSTED: out of memory"), True),
        (ValueError("a broken file"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_what_libraries_say_when_memory_runs_out(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory
    wrapped = ValueError("cannot be read")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped) == is_memory
