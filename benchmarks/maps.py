"""Time and memory of stitching and exporting one slide, by number of patches.

Each step runs in a process of its own, so that its peak memory is its own::

    python benchmarks/maps.py --patches 10000 100000 1000000

Figures are put into ``results/maps.json`` one by one. With ``--scratch`` the store and the map
stay, so that one step of one size can be measured at a time::

    python benchmarks/maps.py --scratch D --patches 1000000 --steps stitch
    python benchmarks/maps.py --scratch D --patches 1000000 --steps geojson ome-tiff png figure

Patches are 256 px at 0.5 µm/px, half overlapping, their saliency a smooth field with noise;
``--stride`` sets the size of a saliency pixel in patch pixels. Peak memory is that of the
process (or, with workers, of the largest one), Python and libraries included. ``load`` is the
load average of the machine after the step: far above the number of cores means that others
were at work, and seconds are to be read as an upper bound.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "maps.json"
PATCH_PX, STEP_PX = 256, 128
CLASSES = ("normal", "tumour")


def make_store(path: Path, n_patches: int, stride_px: int) -> None:
    """Write a saliency store of a square slide, shard by shard."""
    from pathology_scaat.geometry import PatchGrid, SizePx
    from pathology_scaat.patches.schema import SlideGeometry
    from pathology_scaat.saliency.schema import SaliencyStoreMeta
    from pathology_scaat.saliency.store_writer import saliency_store_writer

    n_cols = round(math.sqrt(n_patches))
    grid = PatchGrid(0.0, 0.0, 0.5 / 0.2423, PATCH_PX, STEP_PX, n_cols, n_patches // n_cols)
    side = math.ceil(((n_cols - 1) * STEP_PX + PATCH_PX) * grid.scale)
    index = grid.all_indices()
    meta = SaliencyStoreMeta(
        slide_id=f"bench-{n_patches}", slide_fingerprint="0" * 64, fingerprint="1" * 64,
        patch_fingerprint="2" * 64, model_fingerprint="3" * 64,
        slide=SlideGeometry(SizePx(side, side), 0.2423, "slide"), grid=grid, effective_mpp=0.5,
        stride_px=stride_px, class_names=CLASSES, target_class="tumour", method="gradient",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    h = PATCH_PX // stride_px
    phase = index / 40
    tumour = 0.5 + 0.5 * np.sin(phase[:, 0]) * np.cos(phase[:, 1])
    with saliency_store_writer(path, meta, len(index), grid.origins_px(index), index) as writer:
        for start in range(0, len(index), 8192):
            p = tumour[start : start + 8192]
            noise = rng.random((len(p), h, h), dtype=np.float32)
            writer.append(noise * noise * 0.01, np.stack([1 - p, p], axis=1))


def stitch(folder: Path, workers: int) -> None:
    from pathology_scaat.execution.engine import EngineConfig
    from pathology_scaat.stitching import stitch_slide

    engine = EngineConfig(workers=workers)
    stitch_slide(folder / "saliency.zarr", folder / "map.ome.zarr", overwrite=True, engine=engine)


def export(folder: Path, kind: str) -> None:
    from pathology_scaat.export import ExportConfig, export_slide

    # all tiles in one file: the cap would hide what they cost
    config = ExportConfig(formats=(kind,), max_tiles=10_000_000)
    export_slide(
        folder / "map.ome.zarr", folder / "saliency.zarr", folder / kind, config, overwrite=True
    )


def run_step(step: str, folder: Path, workers: int) -> None:
    """One step in this process; prints seconds and peak memory as JSON."""
    started = time.perf_counter()
    if step == "stitch":
        stitch(folder, workers)
    else:
        export(folder, step)
    seconds = time.perf_counter() - started
    peak_kib = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps({"seconds": round(seconds, 2), "peak_mib": round(peak_kib / 1024)}))


def folder_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def measured(step: str, folder: Path, workers: int) -> dict:
    """Run one step in a process of its own; seconds, peak memory, load and size of what it made."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder),
               "--workers", str(workers)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict = json.loads(done.stdout.splitlines()[-1])
    made = folder / ("map.ome.zarr" if step == "stitch" else step)
    found["load"] = round(os.getloadavg()[0], 1)
    found["output_mib"] = round(folder_bytes(made) / 2**20, 1)
    return found


def add_to_results(path: Path, settings: dict, n_patches: int, step: str, found: dict) -> None:
    """Put one figure into the file of results; figures of other settings are dropped."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if any(report.get(name) != value for name, value in settings.items()):
        report = {}
    rows = {row["patches"]: row for row in report.get("rows", [])}
    row = rows.setdefault(n_patches, {"patches": n_patches, "steps": {}})
    row["steps"][step] = found
    row["total_seconds"] = round(sum(s["seconds"] for s in row["steps"].values()), 1)
    row["us_per_patch"] = round(row["total_seconds"] / n_patches * 1e6)
    report = {**settings, "rows": [rows[n] for n in sorted(rows)]}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patches", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--steps", nargs="+", default=["stitch", "geojson", "ome-tiff", "png", "figure"],
        help="stitch, and formats of export; 'store' only makes the input",
    )  # fmt: skip
    parser.add_argument(
        "--scratch", type=Path, help="folder that keeps stores and maps from call to call"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        run_step(args.step, args.folder, args.workers)
        return
    settings = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "patch_px": PATCH_PX, "step_px": STEP_PX, "stride_px": args.stride,
        "workers": args.workers,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        root = args.scratch or Path(temporary)
        for n in args.patches:
            folder = root / str(n)
            if not (folder / "saliency.zarr").exists():
                make_store(folder / "saliency.zarr", n, args.stride)
            for step in args.steps:
                if step == "store":
                    continue
                found = measured(step, folder, args.workers)
                print(f"{n:>9,} patches  {step:<12} {found}", flush=True)
                add_to_results(args.results, settings, n, step, found)
            if args.scratch is None:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
