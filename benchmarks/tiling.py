"""How fast slides become patch stores, beside other ways of doing it, on the same cores.

    python benchmarks/tiling.py --slide SLIDE.svs --json benchmarks/results/tiling-CPU.json

``--part`` and ``--name`` run a part of the plan and merge what they measure into the file, so
that a machine need not be idle for all of it at once; ``--table`` prints the file as a table.

Each measurement is a process of its own, bound to the cores it may use; the time of imports
and of the first run (compilation, caches) is not counted, the fastest of the repeats counts,
peak memory is that of the process. All contenders cut the same patches. On one core rates
are by CPU time of all the process's threads, which on an idle machine is the wall time and
on a busy one still means something; on several cores they are by wall time.

hs2p wants an environment of its own, whose Python ``SCAAT_HS2P_PYTHON`` names (``tiling_hs2p.py``);
without it that row is left out.
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

KEPT = "aligned, the slide's own JPEG"
SETTINGS: dict[str, dict[str, Any]] = {
    "aligned": {},
    KEPT: {"pixels": "slide-jpeg"},
    "off the tile grid": {"patch_size_px": 250},
    "50 % overlap": {"overlap": "0.5"},
    "2x the spacing": {"factor": 2.0},
    "3.1x the spacing": {"factor": 3.1},
}
N_SLIDES = 8
"""Copies of the slide that are tiled side by side."""


@dataclass
class Run:
    """Patches, and seconds of the work alone."""

    patches: int
    wall_s: float
    cpu_s: float


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def run(self, patches: int) -> Run:
        return Run(patches, time.perf_counter() - self._wall, time.process_time() - self._cpu)


def config_of(setting: dict[str, Any], mpp: float) -> Any:
    from pathology_scaat.patches import TileConfig

    values = dict(setting)
    return TileConfig(mpp=mpp * values.pop("factor", 1.0), **values)


def opened_config(slide: Path, setting: dict[str, Any]) -> Any:
    from pathology_scaat.slides import open_slide

    with open_slide(slide) as opened:
        return config_of(setting, opened.info.mpp or 0.5)


Contender = Callable[[Path, dict[str, Any], int, int], Iterator[Run]]
"""Slide, setting, patches at most (for the slow), cores; yields run after run."""


def tile(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> Iterator[Run]:
    """The whole of ``scaat tile``: mask, read, cut, compress, write."""
    from pathology_scaat.execution.engine import EngineConfig, map_jobs
    from pathology_scaat.patches import TileJob, tile_slide

    config = opened_config(slide, setting)
    while True:
        with tempfile.TemporaryDirectory() as folder:
            job = TileJob(slide, "s", Path(folder) / "s.zarr", config, Path(folder) / "s.png")
            clock = Clock()
            # One job runs in this process, on as many threads as there are cores.
            (outcome,) = list(map_jobs(tile_slide, [job], EngineConfig(workers=cores)))
            assert outcome.result is not None, outcome.error
            yield clock.run(outcome.result.n_patches)


def slides_by_workers(
    slide: Path, setting: dict[str, Any], limit: int, cores: int
) -> Iterator[Run]:
    """Several slides on so many worker processes; counted from when all are at work."""
    from pathology_scaat.execution.engine import EngineConfig, map_jobs
    from pathology_scaat.patches import TileJob, tile_slide

    config = opened_config(slide, setting)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        jobs = [
            TileJob(slide, f"s{i}", out / f"{i}.zarr", config, out / f"{i}.png")
            for i in range(N_SLIDES + cores)
        ]
        patches, clock = 0, Clock()
        outcomes = map_jobs(tile_slide, jobs, EngineConfig(workers=cores))
        for number, outcome in enumerate(outcomes, start=1):
            assert outcome.result is not None, outcome.error
            if number == cores:  # each worker has started and compiled what it needs
                clock = Clock()
            elif number > cores:
                patches += outcome.result.n_patches
        yield clock.run(patches)


class Wanted:
    """The patches that ``scaat tile`` would cut, for the others to cut too."""

    def __init__(self, slide: Path, setting: dict[str, Any], limit: int) -> None:
        from pathology_scaat.geometry import plan_grid, plan_read
        from pathology_scaat.slides import open_slide
        from pathology_scaat.tissue.mask import find_tissue

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

    # It counts places in pixels of the resolution that is asked for.
    # With half a pixel less its patches are OpenSlide's to the grey level, else one pixel off.
    centres = wanted.origins / wanted.plan.scale + wanted.side / 2 - 0.5
    yield from PointsPatchExtractor(
        input_img=slide,
        locations_list=centres,
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


def by_others(read: Callable[[Path, Wanted], Iterator[np.ndarray]], write: bool) -> Contender:
    def run(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> Iterator[Run]:
        wanted = Wanted(slide, setting, limit)
        while True:
            with tempfile.TemporaryDirectory() as folder:
                clock = Clock()
                patches = read(slide, wanted)
                n = zarr_write(folder, wanted, patches) if write else sum(1 for _ in patches)
                yield clock.run(n)

    return run


def decode_floor(reuse: bool) -> Contender:
    """Each native tile under the patches decoded once, and nothing else done.

    With ``reuse`` into one piece of memory, else into fresh memory as the libraries give it.
    """

    def run(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> Iterator[Run]:
        from pathology_scaat.geometry import BoxPx
        from pathology_scaat.slides import open_slide
        from pathology_scaat.slides.tiles import as_tiled, tile_buffer

        wanted = Wanted(slide, setting, 1 << 30)
        level, ds = wanted.plan.level, wanted.plan.level_downsample
        side = round(wanted.side * wanted.plan.shrink)
        with open_slide(slide) as opened:
            tiled = as_tiled(opened)
            lattice = tiled.lattice(level)
            boxes = [
                BoxPx(round(x / ds), round(y / ds), side, side) for x, y in wanted.origins.tolist()
            ]
            keys = sorted({key for box in boxes for key in lattice.tiles_of(box)})
            size = lattice.tile_size_px
            flat = tile_buffer(size.height * size.width * 3)
            scratch = flat.reshape(size.height, size.width, 3) if reuse else None
            while True:
                clock = Clock()
                for col, row in keys:
                    tiled.read_tile(level, col, row, scratch)
                yield clock.run(len(wanted.index))

    return run


def decode_by_processes(
    slide: Path, setting: dict[str, Any], limit: int, cores: int
) -> Iterator[Run]:
    """The decode floor in as many processes as cores: what the machine itself scales to."""
    import multiprocessing

    floor = decode_floor(True)(slide, setting, limit, 1)
    patches = next(floor).patches
    fork = multiprocessing.get_context("fork")

    def repeat() -> None:
        for _ in range(6):
            next(floor)

    while True:
        processes = [fork.Process(target=repeat) for _ in range(cores)]
        clock = Clock()
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        yield clock.run(6 * patches * cores)


def write_floor(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> Iterator[Run]:
    """The same patches, in memory already, compressed and written."""
    from pathology_scaat.patches.extractor import PatchExtractor
    from pathology_scaat.patches.writer import PatchStoreWriter
    from pathology_scaat.slides import open_slide
    from pathology_scaat.slides.tiles import as_tiled

    wanted = Wanted(slide, setting, 2000)
    held: list[np.ndarray] = []
    with open_slide(slide) as opened:
        extractor = PatchExtractor(as_tiled(opened), wanted.plan, wanted.grid)
        extractor.extract(wanted.index, np.copy, held.append)
    while True:
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            with PatchStoreWriter(Path(folder) / "w.zarr", len(held), wanted.side) as writer:
                for patch in held:
                    writer.append(patch)
                writer._shards.finish()
            yield clock.run(len(held))


def copy_alone(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> Iterator[Run]:
    """All of ``scaat tile`` but the search for tissue and its picture: the patches are known."""
    from pathology_scaat.patches import TileJob, tile_slide, tiling
    from pathology_scaat.slides import open_slide

    config = opened_config(slide, setting)
    with open_slide(slide) as opened, tempfile.TemporaryDirectory() as folder:
        mask = tiling._tissue(TileJob(slide, "s", Path(folder) / "s.zarr", config), opened)
    tiling._tissue = lambda job, slide: mask  # type: ignore[assignment]
    while True:
        with tempfile.TemporaryDirectory() as folder:
            job = TileJob(slide, "s", Path(folder) / "s.zarr", config)
            clock = Clock()
            yield clock.run(tile_slide(job).n_patches)


def bytes_of(slide: Path, setting: dict[str, Any]) -> dict[str, int]:
    """Bytes of the store, of its patches' tiles in the file, and of all tiles of the level."""
    from pathology_scaat.patches import PatchStore, TileJob, tile_slide
    from pathology_scaat.slides import open_slide

    config = opened_config(slide, setting)
    with tempfile.TemporaryDirectory() as folder, open_slide(slide) as opened:
        path = Path(folder) / "s.zarr"
        tile_slide(TileJob(slide, "s", path, config))
        store = PatchStore(path)
        level: Any = opened.tiff_level(store.meta.level_read)  # type: ignore[attr-defined]
        columns, rows = store.grid_index.T
        lengths = level.planes[0].lengths
        return {
            "store_bytes": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
            "tiles_of_patches_bytes": int(lengths[rows * level.lattice.n_cols + columns].sum()),
            "level_bytes": int(lengths.sum()),
        }


def random_batches(slide: Path, setting: dict[str, Any], limit: int, cores: int) -> Iterator[Run]:
    """Random batches of 256 out of a store."""
    from pathology_scaat.patches import PatchStore, TileJob, tile_slide

    with tempfile.TemporaryDirectory() as folder:
        config = opened_config(slide, setting)
        tile_slide(TileJob(slide, "s", Path(folder) / "s.zarr", config))
        store = PatchStore(Path(folder) / "s.zarr")
        store.read(slice(None))  # what is measured is the store, not the disk
        rng = np.random.default_rng(0)
        while True:
            clock = Clock()
            for _ in range(24):
                store.read(rng.integers(0, len(store), 256))
            yield clock.run(24 * 256)


TILE, WORKERS, BATCHES = "scaat tile (whole)", "scaat tile, several slides", "random batches of 256"
TIATOOLBOX, TIATOOLBOX_ZARR = "TIAToolbox extractor, read only", "TIAToolbox extractor + zarr"
OPENSLIDE, OPENSLIDE_ZARR = "OpenSlide loop, read only", "OpenSlide loop + zarr"
DECODE, DECODE_FRESH = "decode floor", "decode floor, fresh memory"
DECODE_PROCESSES = "decode floor, a process a core"
WRITE = "write floor"
COPY = "scaat tile, tissue known"
HS2P = "hs2p (whole, JPEG in a tar)"
CONTENDERS: dict[str, Contender] = {
    TILE: tile,
    WORKERS: slides_by_workers,
    TIATOOLBOX: by_others(tiatoolbox_patches, False),
    TIATOOLBOX_ZARR: by_others(tiatoolbox_patches, True),
    OPENSLIDE: by_others(openslide_patches, False),
    OPENSLIDE_ZARR: by_others(openslide_patches, True),
    DECODE: decode_floor(True),
    DECODE_FRESH: decode_floor(False),
    DECODE_PROCESSES: decode_by_processes,
    WRITE: write_floor,
    COPY: copy_alone,
    BATCHES: random_batches,
}

ALL_READERS = (TILE, TIATOOLBOX, TIATOOLBOX_ZARR, OPENSLIDE, OPENSLIDE_ZARR, HS2P, DECODE,
               DECODE_FRESH, WRITE)  # fmt: skip
READERS = (TILE, TIATOOLBOX, OPENSLIDE, HS2P, DECODE)
HALF_GLASS, LARGE, CANVAS = "16,384 px, half glass", "60,000 px", "32,768 px, same tissue"
SYNTHETIC: dict[str, tuple[int, tuple[int, int]]] = {
    HALF_GLASS: (16_384, (8_192, 16_384)),
    CANVAS: (32_768, (8_192, 16_384)),
    LARGE: (60_000, (30_000, 15_000)),
}
"""Side of the slide, and width and height of the tissue."""

REAL = "real"
PARTS: dict[str, list[tuple[str, str, int, tuple[str, ...]]]] = {
    "aligned": [(REAL, "aligned", 1, ALL_READERS)],
    "slide-jpeg": [
        (REAL, KEPT, 1, (TILE, COPY, BATCHES)),
        (REAL, "aligned", 1, (TILE, COPY, TIATOOLBOX, BATCHES)),
        (REAL, KEPT, 2, (BATCHES,)),
        (REAL, "aligned", 2, (BATCHES,)),
    ],
    "settings": [
        (REAL, "off the tile grid", 1, READERS),
        (REAL, "50 % overlap", 1, (TILE, TIATOOLBOX, HS2P)),
        (REAL, "2x the spacing", 1, READERS),
        (REAL, "3.1x the spacing", 1, READERS),
    ],
    "half-glass": [
        (HALF_GLASS, "aligned", 1, ALL_READERS),
        (HALF_GLASS, "50 % overlap", 1, (TILE,)),
    ],
    "cores": [
        (REAL, "aligned", 1, (WORKERS, DECODE_PROCESSES, BATCHES)),
        (REAL, "aligned", 2, (TILE, WORKERS, DECODE_PROCESSES, BATCHES)),
    ],
    "large": [(CANVAS, "aligned", 1, (TILE,)), (LARGE, "aligned", 1, (TILE,))],
}  # fmt: skip


def peak_mib() -> float:
    """Peak memory of this process (``ru_maxrss`` of a child begins with its parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(arguments: argparse.Namespace) -> None:
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, usable[-arguments.cores :])
    runs = CONTENDERS[arguments.child](
        arguments.slide, SETTINGS[arguments.setting], arguments.limit, arguments.cores
    )
    done = []
    for number, run in enumerate(runs):
        done.append(asdict(run))
        if number == arguments.repeats:  # one more than counted: the first one warms up
            break
    told = {"runs": done[1:] or done, "peak_mib": round(peak_mib())}
    if arguments.child == COPY:
        told.update(bytes_of(arguments.slide, SETTINGS[arguments.setting]))
    print(json.dumps(told))


def hs2p_command(
    slide: Path, setting: dict[str, Any], cores: int, repeats: int
) -> list[str] | None:
    """How hs2p is measured, in an environment of its own; None where there is none."""
    python = os.environ.get("SCAAT_HS2P_PYTHON")
    if not python:
        return None
    config = opened_config(slide, setting)
    return [
        python, str(Path(__file__).with_name("tiling_hs2p.py")), str(slide),
        "--mpp", repr(config.mpp), "--side", str(config.patch_size_px),
        "--overlap", str(1 - config.step_px / config.patch_size_px),
        "--cores", str(cores), "--repeats", str(repeats),
    ]  # fmt: skip


def measure(
    name: str, slide: Path, setting: str, cores: int, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """One contender in a process of its own."""
    command: list[str] | None = [
        sys.executable, __file__, "--slide", str(slide), "--child", name,
        "--setting", setting, "--limit", str(arguments.limit), "--cores", str(cores),
        "--repeats", str(arguments.repeats),
    ]  # fmt: skip
    if name == HS2P:
        command = hs2p_command(slide, SETTINGS[setting], cores, arguments.repeats)
        if command is None:
            print(f"  {name}: SCAAT_HS2P_PYTHON names no Python that has it")
            return None
    env = {**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        print(f"  {name}: {done.stderr.strip().splitlines()[-1:]}")
        return None
    result = json.loads(done.stdout.strip().splitlines()[-1])
    by_cpu = cores == 1 and name not in (WORKERS, DECODE_PROCESSES)
    best = max(result["runs"], key=lambda r: r["patches"] / (r["cpu_s"] if by_cpu else r["wall_s"]))
    return {
        "patches": best["patches"],
        "rate": round(best["patches"] / (best["cpu_s"] if by_cpu else best["wall_s"]), 1),
        "rate_by": "cpu" if by_cpu else "wall",
        "wall_s": round(best["wall_s"], 3),
        "cpu_s": round(best["cpu_s"], 3),
        "peak_mib": result["peak_mib"],
        "repeats": len(result["runs"]),
        **{name: value for name, value in result.items() if name.endswith("_bytes")},
    }


def machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
    return {"cpu": name, "cores": os.cpu_count(), "python": platform.python_version()}


def run_part(part: str, arguments: argparse.Namespace, scratch: Path) -> None:
    """Measure a part of the plan; each figure is in the file as soon as it is known."""
    for slide_name, setting, cores, names in PARTS[part]:
        slide = arguments.slide
        if slide_name != REAL:
            from synthetic_slides import write_slide

            side, tissue = SYNTHETIC[slide_name]
            slide = scratch / f"synthetic_{side}.svs"
            if not slide.exists():
                write_slide(slide, side, tissue)
        shown = slide.name if slide_name == REAL else f"synthetic, {slide_name}"
        print(f"{shown}, {setting}, {cores} core{'s' if cores > 1 else ''}", flush=True)
        for name in names:
            if arguments.name and name not in arguments.name:
                continue
            measured = measure(name, slide, setting, cores, arguments)
            if measured is None:
                continue
            key = {"slide": shown, "setting": setting, "cores": cores, "name": name}
            print(f"  {name:34s} {measured['rate']:9,.0f} patches/s  {measured}", flush=True)
            load = round(os.getloadavg()[0], 1)
            # On tmpfs it is cores that are measured, and not the disk that they share.
            outputs = "memory" if tempfile.gettempdir().startswith("/dev/shm") else "disk"
            result = {**key, **measured, "outputs": outputs, "load_average": load}
            if arguments.json:
                merge(arguments.json, arguments.slide, [result])


def merge(path: Path, slide: Path, results: list[dict[str, Any]]) -> None:
    """Put new results in the place of old ones of the same name."""
    from pathology_scaat.artifacts.fingerprint import versions

    def key(result: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(result[name] for name in ("slide", "setting", "cores", "name"))

    report = json.loads(path.read_text()) if path.exists() else {}
    known = {key(result): result for result in report.get("results", []) if "slide" in result}
    known.update({key(result): result for result in results})
    report = {"machine": machine(), "versions": versions(), "slide": slide.name,
              "results": list(known.values())}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def table(path: Path) -> str:
    """The results as Markdown, each beside ``scaat tile`` on the same slide and cores."""
    results = json.loads(path.read_text())["results"]
    whole = {(r["slide"], r["setting"], r["cores"]): r for r in results if r["name"] == TILE}
    lines = [
        "| slide | setting | cores | what | patches/s | by | scaat tile is | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        same = whole.get((r["slide"], r["setting"], r["cores"]))
        other = (BATCHES, WORKERS, DECODE_PROCESSES)
        comparable = same and r["name"] not in other and r is not same
        ratio = f"{same['rate'] / r['rate']:.2f}x" if comparable and same else ""
        lines.append(
            f"| {r['slide']} | {r['setting']} | {r['cores']} | {r['name']} | {r['rate']:,.0f} "
            f"| {r['rate_by']} | {ratio} | {r['peak_mib']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, help="a real, dense slide")
    parser.add_argument("--json", type=Path, help="file that results are merged into")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all of them")
    parser.add_argument(
        "--name", choices=(*CONTENDERS, HS2P), action="append", help="only these of a part"
    )
    parser.add_argument("--scratch", type=Path, help="folder that keeps the synthetic slides")
    parser.add_argument("--limit", type=int, default=600, help="patches for the slow contenders")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--table", action="store_true", help="only print the file as a table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--setting", default="aligned", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.json))
        return
    if arguments.slide is None:
        parser.error("--slide is needed")
    if arguments.child:
        child(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = arguments.scratch or Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        for part in arguments.part or PARTS:
            run_part(part, arguments, scratch)


if __name__ == "__main__":
    main()
