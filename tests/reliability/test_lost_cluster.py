"""Parts of a real cluster on loopback are killed in the middle of a whole run.

The run ends in bounded time with the truth in slides.csv and the exit code, and the same
command again ends in the bytes of an undisturbed run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crash_driver import prepare
from loopback_cluster import loopback_cluster, wait_until
from reliability_tools import FINISHED, digest, make_cohort, read_status, run_scaat

BOUNDED_S = 60.0
"""From the kill to the end of the command; the work itself takes seconds."""

TILE = ("--mpp", "0.5", "--patch-size", "32", "--overlap", "0.5")
# Without figures: drawing them takes longer than everything else.
RUN = (*TILE, "--epochs", "1", "--device", "cpu", "--formats", "geojson,ome-tiff,png")
MADE = {"tile": "patches/*.zarr", "stitch": "maps/*.ome.zarr", "export": "overlays/*.ome.tiff"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kill -9 of groups")]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), side_px=288)


@pytest.fixture(scope="module")
def good(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    # Not in this process: what other tests set in it (threads, kernels) may change last bits.
    done = run_scaat("run", "--manifest", cohort, "--out", out, "--workers", 0, *RUN)
    assert done.returncode in FINISHED, done.stderr
    return out


@pytest.fixture(scope="module")
def undisturbed(good: Path) -> dict[str, str]:
    return digest(good)


def assert_rows_are_true(out: Path, code: int) -> None:
    failed = 0
    for row in read_status(out):
        for stage, pattern in MADE.items():
            made = any(path.name.startswith(row["slide_id"] + ".") for path in out.glob(pattern))
            assert made or row[stage] != "done", (row, stage)
            failed += row[stage] == "failed"
        assert not any(row[stage] == "failed" for stage in MADE) or row["reason"].endswith(".")
    assert (code == 3) == (failed > 0)


@pytest.mark.parametrize(
    ("part", "stage", "folder", "codes"),
    [
        ("worker", "tile", "patches", {0}),
        ("worker", "stitch", "maps", {0}),
        ("scheduler", "tile", "patches", {3}),
        ("scheduler", "export", "overlays", {0, 3}),  # its last job may have ended before
    ],
)
def test_a_part_of_the_cluster_is_killed(
    cohort: Path,
    good: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    part: str,
    stage: str,
    folder: str,
    codes: set[int],
) -> None:
    out = tmp_path / "out"
    prepare(good, out, stage)
    args = ("run", "--manifest", str(cohort), "--out", str(out), *RUN)
    with (
        loopback_cluster(tmp_path / "cluster") as cluster,
        ThreadPoolExecutor(1) as background,
    ):
        run = background.submit(run_scaat, *args, "--scheduler", cluster.address)

        def at_work() -> bool:
            return run.done() or any((out / folder).glob("*.partial-*"))

        assert wait_until(at_work, 180, every_s=0.001)
        cluster.kill(cluster.scheduler if part == "scheduler" else cluster.workers[0])
        killed = time.monotonic()
        done = run.result(timeout=BOUNDED_S * (4 if part == "worker" else 1))
        said = done.stdout + done.stderr
        assert done.returncode in codes, said
        assert "Traceback" not in said
        assert "distributed" not in said
        assert_rows_are_true(out, done.returncode)
        if done.returncode == 3:
            assert time.monotonic() - killed < BOUNDED_S
            assert "the dask scheduler was lost" in said
            # Workers end with their scheduler; what they still finish is whole.
            assert wait_until(lambda: all(w.poll() is not None for w in cluster.workers), 60)
        again = run_scaat(*args, "--workers", "0")
    assert again.returncode in FINISHED, again.stdout + again.stderr
    assert digest(out) == undisturbed
    assert not list(out.rglob("*.partial-*"))


def test_a_cluster_whose_last_worker_died_is_given_up(
    cohort: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("run", "--manifest", str(cohort), "--out", str(out), *RUN)
    impatient = (
        "from pathology_scaat.execution import dask_cluster;"
        "dask_cluster.NO_WORKER_TIMEOUT_S = 3.0; dask_cluster.LOOK_EVERY_S = 0.5;"
        "from pathology_scaat.cli import main; main()"
    )
    with loopback_cluster(tmp_path / "cluster", workers=1) as cluster:
        run = subprocess.Popen(
            [sys.executable, "-c", impatient, *args, "--scheduler", cluster.address],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert wait_until(lambda: any((out / "patches").glob("*.partial-*")), 120, every_s=0.001)
        cluster.kill(cluster.workers[0])
        assert run.wait(BOUNDED_S) == 3
    assert any(
        "has no worker that takes work; start it again" in r["reason"] for r in read_status(out)
    )
    assert_rows_are_true(out, 3)
    again = run_scaat(*args, "--workers", "0")
    assert again.returncode in FINISHED, again.stdout + again.stderr
    assert digest(out) == undisturbed


def test_a_worker_over_its_memory_limit_is_one_sentence(
    cohort: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    one = cohort.with_name("one.csv")
    one.write_text("".join(cohort.read_text(encoding="utf-8").splitlines(True)[:2]))
    out = tmp_path / "out"
    args = ("tile", "--manifest", str(one), "--out", str(out), *TILE)
    nanny = ("--nanny", "--memory-limit", "170 MiB")
    with loopback_cluster(tmp_path / "cluster", 1, *nanny) as cluster:
        done = run_scaat(*args, "--scheduler", cluster.address)
    said = done.stdout + done.stderr
    assert done.returncode == 3, said
    assert "its worker process died (out of memory?)" in said
    assert "Traceback" not in said
    assert_rows_are_true(out, 3)
    again = run_scaat(*args, "--workers", "0", in_process=True)
    assert again.returncode in FINISHED, again.stdout + again.stderr
    same = {
        name: value for name, value in undisturbed.items() if name.startswith("patches/slide-0")
    }
    assert same.items() <= digest(out).items()
    assert not list(out.rglob("*.partial-*"))
