"""Many slides over a Dask cluster: memory of the scheduler, time per slide, and what kills cost.

    python benchmarks/scale.py --slides 1000 --out benchmarks/results/scale.json

A scheduler and some worker processes are started on loopback, small slides are written (no two of
the same bytes), and ``scaat run --model --scheduler`` explains them all. When a third of the maps
is there a worker is killed (``kill -9``) and another one started; at two thirds the client is
killed, and the same command is given again. Told are the scheduler's memory over time, the seconds
a slide of the first and the last quarter of each client's slides took, how many slides the second
client found done, and whether in the end every slide is done, in the table and on the disk.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from everyday import rounded, write_model
from precision import machine

SIDE = 512
STAGES = ("tile", "explain", "stitch", "export")


def write_small_slides(folder: Path, count: int) -> None:
    """Pink squares on glass at 0.5 µm/px, 512 px wide: a handful of patches each."""
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.full((SIDE, SIDE, 3), 244, np.uint8)
        image[32:-32, 32:-32] = (222, 160, 196)
        image[64:200, 64:200] -= rng.integers(0, 60, (136, 136, 1), np.uint8)
        tifffile.imwrite(
            folder / f"s{number:05d}.tiff", image, tile=(256, 256), photometric="rgb",
            compression="deflate", resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
            metadata=None,
        )  # fmt: skip


class Cluster:
    """A scheduler and workers on loopback, each a process of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._log = (folder / "cluster.log").open("ab")
        scheduler_file = folder / "scheduler.json"
        self.scheduler = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address",
            "127.0.0.1:0", "--no-dashboard", "--scheduler-file", str(scheduler_file),
        )  # fmt: skip
        while not scheduler_file.exists() or not scheduler_file.read_text():
            time.sleep(0.1)
        self.address = json.loads(scheduler_file.read_text())["address"]
        self.workers = [self.worker(number) for number in range(workers)]

    def _start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *words],
            stdout=self._log, stderr=self._log, cwd=self._folder, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def worker(self, number: int) -> subprocess.Popen[bytes]:
        return self._start(
            "dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--memory-limit", "0", "--name", str(number),
            "--local-directory", str(self._folder / f"scratch{number}"),
        )  # fmt: skip

    def replace_worker(self, number: int) -> None:
        """``kill -9`` of one, and another in its place, as a batch system would start it."""
        kill(self.workers[number])
        self.workers[number] = self.worker(number + len(self.workers))

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def pace(times_s: list[float]) -> dict[str, float] | None:
    """Seconds per slide in the first and in the last quarter of some slides' moments."""
    if len(times_s) < 12:
        return None
    quarter = len(times_s) // 4
    ordered = sorted(times_s)
    first, last = ordered[: quarter + 1], ordered[-quarter - 1 :]
    return {
        "first_quarter_s": (first[-1] - first[0]) / quarter,
        "last_quarter_s": (last[-1] - last[0]) / quarter,
    }


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    slides, out = folder / "slides", folder / "out"
    slides.mkdir()
    write_small_slides(slides, given.slides)
    model = write_model(folder / "model", "scaat-small")
    cluster = Cluster(folder, given.workers)
    command = [
        sys.executable, "-m", "pathology_scaat", "run", "--manifest", str(slides), "--out",
        str(out), "--model", str(model), "--device", "cpu", "--formats", "geojson,csv",
        "--scheduler", cluster.address, "--quiet",
    ]  # fmt: skip
    memory: list[tuple[float, float]] = []
    ended = threading.Event()
    begin = time.monotonic()

    def watch() -> None:
        while not ended.wait(1.0):
            memory.append((time.monotonic() - begin, resident_mib(cluster.scheduler.pid)))

    def start_client() -> subprocess.Popen[bytes]:
        with (folder / "client.log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def explained() -> int:
        return sum(1 for _ in (out / "saliency").glob("*.zarr/zarr.json"))

    def wait_for(share: float, client: subprocess.Popen[bytes]) -> None:
        while client.poll() is None and explained() < share * given.slides:
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        first = start_client()
        wait_for(1 / 3, first)
        at_third = explained()
        cluster.replace_worker(0)
        wait_for(2 / 3, first)
        kill(first)
        found_done = explained()
        first_times = times(out)
        second = start_client()
        code = second.wait(given.limit_s)
    finally:
        ended.set()
        cluster.close()
    wall = time.monotonic() - begin
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    quarters = [memory[len(memory) * part // 4 - 1][1] for part in (1, 2, 3, 4)]
    return {
        "slides": given.slides,
        "workers": given.workers,
        "wall_s": wall,
        "exit_code": code,
        "explained_when_the_worker_was_killed": at_third,
        "explained_when_the_client_was_killed": found_done,
        "kept_by_the_second_client": sum(
            path in times(out).items() for path in first_times.items()
        ),
        "explain_of_first_client": pace(list(first_times.values())),
        "explain_of_second_client": pace(
            [moment for name, moment in times(out).items() if name not in first_times]
        ),
        "done_in_the_table": {s: sum(row[s] == "done" for row in rows) for s in STAGES},
        "maps": sum(1 for _ in (out / "maps").glob("*.ome.zarr")),
        "unfinished_files": sum(1 for _ in out.rglob("*.partial-*")),
        "scheduler_mib_after_each_quarter_of_the_time": quarters,
        "scheduler_mib_peak": max(mib for _, mib in memory),
    }


def times(out: Path) -> dict[str, float]:
    """When each slide's explanation was there."""
    return {
        path.parent.name: path.stat().st_mtime
        for path in (out / "saliency").glob("*.zarr/zarr.json")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--limit-s", type=float, default=3600)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCAAT_CACHE_DIR"] = f"{folder}/cache"
        result = {"machine": machine(), **rounded(measure(given, Path(folder)))}
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
