"""How fast slides become patch stores, beside other ways of doing it, on the same cores.

    python benchmarks/tiling.py --slide SLIDE.svs --json benchmarks/results/tiling-CPU.json

Each measurement is a process of its own, bound to the cores it may use; the time of imports
is not counted, peak memory is that of the process. All contenders cut the same patches.
On one core rates are by CPU time of all the process's threads, which on an idle machine is
the wall time and on a busy one still means something; on several cores by wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS: dict[str, dict[str, Any]] = {
    "aligned": {},
    "off the tile grid": {"patch_size_px": 250},
    "50 % overlap": {"overlap": "0.5"},
    "2x the spacing": {"factor": 2.0},
    "3.1x the spacing": {"factor": 3.1},
}


Spent = tuple[float, float]
"""Wall and CPU seconds."""


@dataclass
class Measured:
    """Patches, seconds of the work alone, peak memory of the process."""

    patches: int
    cores: int
    seconds: float
    cpu_seconds: float
    peak_mib: float

    @property
    def rate(self) -> float:
        return self.patches / (self.cpu_seconds if self.cores == 1 else self.seconds)


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def config_of(setting: dict[str, Any], mpp: float) -> Any:
    from pathology_scaat.patches import TileConfig

    values = dict(setting)
    return TileConfig(mpp=mpp * values.pop("factor", 1.0), **values)


def tile(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> tuple[int, Spent]:
    """The whole of ``scaat tile``: mask, read, cut, compress, write."""
    from pathology_scaat.engine import EngineConfig, map_jobs
    from pathology_scaat.patches import TileJob, tile_slide
    from pathology_scaat.slides import open_slide

    with open_slide(slide) as opened:
        config = config_of(setting, opened.info.mpp or 0.5)
    from pathology_scaat.patches import resample

    axis = resample.axis_weights(0.0, 1.5, 0, 4)  # compiled once a machine, not once a slide
    resample.average(np.zeros((axis.count, axis.count, 3), np.uint8), axis, axis)
    with tempfile.TemporaryDirectory() as folder:
        job = TileJob(slide, "s", Path(folder) / "s.zarr", config, Path(folder) / "s.png")
        clock = Clock()
        (outcome,) = list(map_jobs(tile_slide, [job], EngineConfig(workers=cores)))
        spent = clock.read()
        assert outcome.result is not None, outcome.error
        return outcome.result.n_patches, spent


class Wanted:
    """The patches that ``scaat tile`` would cut, for the others to cut too."""

    def __init__(self, slide: Path, setting: dict[str, Any], limit: int) -> None:
        from pathology_scaat.geometry import plan_grid, plan_read
        from pathology_scaat.slides import open_slide
        from pathology_scaat.tissue import find_tissue

        with open_slide(slide) as opened:
            info = opened.info
            assert info.mpp is not None
            self.mpp = info.mpp
            self.config = config_of(setting, info.mpp)
            tissue = find_tissue(opened, self.config.tissue)
        self.plan = plan_read(info.mpp, info.level_downsamples, self.config.mpp)
        side = self.config.patch_size_px
        self.grid = plan_grid(info.frame_px, self.plan, side, self.config.step_px)
        index = self.grid.all_indices()
        share = tissue.fractions(self.grid.exact_origins_px(index), side * self.plan.scale)
        # A stretch of neighbours, as a slide is tiled: random places would favour nobody
        # fairly.
        index = index[share >= self.config.min_tissue]
        first = max(0, (len(index) - limit) // 2)
        self.index = index[first : first + limit]
        self.origins = self.grid.origins_px(self.index)
        self.side = side


def openslide_patches(slide: Path, wanted: Wanted) -> Iterator[np.ndarray]:
    import openslide
    from PIL import Image

    with openslide.OpenSlide(slide) as opened:
        shrink = wanted.plan.shrink
        side = round(wanted.side * shrink)
        for x, y in wanted.origins.tolist():
            region = opened.read_region((x, y), wanted.plan.level, (side, side)).convert("RGB")
            if shrink != 1.0:
                region = region.resize((wanted.side, wanted.side), Image.Resampling.BOX)
            yield np.asarray(region)


def tiatoolbox_patches(slide: Path, wanted: Wanted) -> Iterator[np.ndarray]:
    from tiatoolbox.tools.patchextraction import PointsPatchExtractor

    half = wanted.side * wanted.plan.scale / 2
    yield from PointsPatchExtractor(
        input_img=slide,
        locations_list=wanted.origins + half,
        patch_size=(wanted.side, wanted.side),
        resolution=wanted.plan.effective_mpp,
        units="mpp",
    )


def zarr_write(folder: str, wanted: Wanted, patches: Iterator[np.ndarray]) -> int:
    """What a careful user writes: zarr-python, a shard at a time."""
    import zarr

    per_shard, side = 256, wanted.side
    array = zarr.create_array(
        Path(folder) / "plain.zarr",
        shape=(len(wanted.index), side, side, 3),
        chunks=(1, side, side, 3),
        shards=(per_shard, side, side, 3),
        dtype="uint8",
        compressors=zarr.codecs.ZstdCodec(level=1),
    )
    done, shard = 0, []
    for patch in patches:
        shard.append(patch)
        if len(shard) == per_shard:
            array[done : done + len(shard)] = np.stack(shard)
            done, shard = done + len(shard), []
    if shard:
        array[done : done + len(shard)] = np.stack(shard)
    return done + len(shard)


def by_others(
    read: Callable[[Path, Wanted], Iterator[np.ndarray]], write: bool
) -> Callable[[Path, dict[str, Any], int, int], tuple[int, Spent]]:
    def run(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> tuple[int, Spent]:
        wanted = Wanted(slide, setting, limit)
        next(read(slide, wanted))  # imports
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            patches = read(slide, wanted)
            n = zarr_write(folder, wanted, patches) if write else sum(1 for _ in patches)
            return n, clock.read()

    return run


def decode_floor(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> tuple[int, Spent]:
    """Each native tile under the patches decoded once, and nothing else done."""
    from pathology_scaat.geometry import BoxPx
    from pathology_scaat.slides import open_slide
    from pathology_scaat.slides.tiles import as_tiled

    wanted = Wanted(slide, setting, limit)
    ds = wanted.plan.level_downsample
    side = round(wanted.side * wanted.plan.shrink)
    with open_slide(slide) as opened:
        tiled = as_tiled(opened)
        lattice = tiled.lattice(wanted.plan.level)
        boxes = [
            BoxPx(round(x / ds), round(y / ds), side, side) for x, y in wanted.origins.tolist()
        ]
        keys = sorted({key for box in boxes for key in lattice.tiles_of(box)})
        clock = Clock()
        for col, row in keys:
            tiled.read_tile(wanted.plan.level, col, row)
        return len(wanted.index), clock.read()


def write_floor(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> tuple[int, Spent]:
    """The same patches, in memory already, compressed and written."""
    from pathology_scaat.patches.cutter import PatchCutter
    from pathology_scaat.patches.writer import PatchStoreWriter
    from pathology_scaat.slides import open_slide
    from pathology_scaat.slides.tiles import as_tiled

    wanted = Wanted(slide, setting, limit)
    held: list[np.ndarray] = []
    slot = np.empty((wanted.side, wanted.side, 3), np.uint8)
    with open_slide(slide) as opened:
        cutter = PatchCutter(as_tiled(opened), wanted.plan, wanted.grid)
        cutter.cut(wanted.index, lambda: slot, lambda: held.append(slot.copy()))
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        with PatchStoreWriter(Path(folder) / "w.zarr", len(held), wanted.side) as writer:
            for patch in held:
                writer.append(patch)
        return len(held), clock.read()


def random_batches(
    slide: Path, setting: dict[str, Any], limit: int, cores: int
) -> tuple[int, Spent]:
    """Random batches of 256 out of a store."""
    from pathology_scaat.patches import PatchStore, TileJob, tile_slide

    with tempfile.TemporaryDirectory() as folder:
        from pathology_scaat.slides import open_slide

        with open_slide(slide) as opened:
            config = config_of(setting, opened.info.mpp or 0.5)
        tile_slide(TileJob(slide, "s", Path(folder) / "s.zarr", config))
        store = PatchStore(Path(folder) / "s.zarr")
        rng = np.random.default_rng(0)
        store.read(rng.integers(0, len(store), 256))
        clock = Clock()
        for _ in range(12):
            store.read(rng.integers(0, len(store), 256))
        return 12 * 256, clock.read()


CONTENDERS: dict[str, Callable[[Path, dict[str, Any], int, int], tuple[int, Spent]]] = {
    "scaat tile (whole)": tile,
    "TIAToolbox extractor, read only": by_others(tiatoolbox_patches, False),
    "TIAToolbox extractor + zarr": by_others(tiatoolbox_patches, True),
    "OpenSlide loop + zarr": by_others(openslide_patches, True),
    "decode floor": decode_floor,
    "write floor": write_floor,
    "random batches of 256": random_batches,
}


def measure(name: str, slide: Path, setting: str, limit: int, cores: int) -> Measured | None:
    """One contender in a process of its own."""
    command = [
        sys.executable, __file__, "--slide", str(slide), "--child", name,
        "--setting", setting, "--limit", str(limit), "--cores", str(cores),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=900, check=False
    )
    if done.returncode:
        print(f"  {name}: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def child(arguments: argparse.Namespace) -> None:
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, usable[: arguments.cores])
    work = CONTENDERS[arguments.child]
    n, (seconds, cpu_seconds) = work(
        arguments.slide, SETTINGS[arguments.setting], arguments.limit, arguments.cores
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(asdict(Measured(n, arguments.cores, seconds, cpu_seconds, peak))))


def machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
    return {"cpu": name, "cores": os.cpu_count(), "python": platform.python_version()}


PLAN: list[tuple[str, int, tuple[str, ...]]] = [
    ("aligned", 1, tuple(CONTENDERS)),
    ("aligned", 2, ("scaat tile (whole)", "decode floor", "random batches of 256")),
    ("off the tile grid", 1, ("scaat tile (whole)", "TIAToolbox extractor, read only",
                              "OpenSlide loop + zarr", "decode floor")),
    ("50 % overlap", 1, ("scaat tile (whole)", "TIAToolbox extractor, read only")),
    ("2x the spacing", 1, ("scaat tile (whole)", "TIAToolbox extractor, read only",
                           "OpenSlide loop + zarr", "decode floor")),
    ("3.1x the spacing", 1, ("scaat tile (whole)", "TIAToolbox extractor, read only",
                             "OpenSlide loop + zarr", "decode floor")),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=int, default=600, help="patches for the slow contenders")
    parser.add_argument("--repeats", type=int, default=2, help="the fastest counts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--setting", default="aligned", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    from pathology_scaat.provenance import versions

    results = []
    for setting, cores, names in PLAN:
        print(f"{setting}, {cores} core{'s' if cores > 1 else ''}", flush=True)
        whole = None
        for name in names:
            runs = [
                run
                for _ in range(arguments.repeats)
                if (run := measure(name, arguments.slide, setting, arguments.limit, cores))
            ]
            if not runs:
                continue
            best = max(runs, key=lambda run: run.rate)
            whole = whole or best
            print(
                f"  {name:34s} {best.rate:9,.0f} patches/s  scaat tile is "
                f"{whole.rate / best.rate:6.2f}x  peak {best.peak_mib:6,.0f} MiB",
                flush=True,
            )
            results.append(
                {"setting": setting, "name": name, "rate": round(best.rate, 1),
                 "scaat_tile_is": round(whole.rate / best.rate, 3), **asdict(best)}
            )  # fmt: skip
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": machine(), "versions": versions(), "slide": arguments.slide.name,
                  "limit": arguments.limit, "results": results}  # fmt: skip
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
