"""The review server on a big slide: time of a tile, of the first view, and memory.

::

    python benchmarks/review.py --side 60000 --scratch D --out benchmarks/results/review.json

Makes a pyramidal TIFF of ``--side`` px (JPEG tiles of 512 px) and a run of it, starts
``scaat review`` and asks for tiles over HTTP as a browser does, six at a time, every tile but
once. First view: the answers to the slide's facts, its map, and the tiles that fill a window of
1400 x 900 px twice. CPU seconds are of the server, all
threads. ``load`` is the load average: above the number of cores others were at work; run it
with ``chrt -r 1`` so that they do not take the cores meanwhile. ``--chromium`` also opens the
slide's page in a headless Chromium (which has no GPU): until both views and the map are drawn,
the first time and again.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.patches.schema import SlideGeometry
from pathology_scaat.saliency import write_saliency_store
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.stitching import StitchConfig, stitch_slide

TILE_PX, MPP, PATCH_PX = 512, 0.25, 448
CONNECTIONS = 6
"""A browser's, of which it has six to a server."""


def encoded_tiles(seed: int) -> list[bytes]:
    """A few JPEG tiles of smooth texture."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(8):
        small = rng.integers(140, 240, (48, 48, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=80, subsampling=0)
        made.append(stream.getvalue())
    return made


def write_big_slide(path: Path, side: int) -> None:
    """A pyramid whose levels halve down to 1,000 px."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        scale = 1
        while side // scale >= 1000:
            size = side // scale
            tiles = encoded_tiles(scale)
            count = (-(-size // TILE_PX)) ** 2
            per_cm = 1e4 / (MPP * scale)
            writer.write(
                (tiles[i % len(tiles)] for i in range(count)),
                shape=(size, size, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX),
                photometric="ycbcr", compression="jpeg", subsampling=(1, 1),
                resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
                subfiletype=0 if scale == 1 else 1, metadata=None,
            )  # fmt: skip
            scale *= 2


def make_run(out: Path, side: int) -> None:
    """A map of random values that covers the slide, and its regions."""
    n = side // PATCH_PX
    grid = PatchGrid(0.0, 0.0, 8.0, PATCH_PX // 8, PATCH_PX // 8, n, n)
    index = grid.all_indices()
    rng = np.random.default_rng(0)
    p = rng.random(len(index)).astype(np.float32)
    meta = SaliencyStoreMeta(
        slide_id="big", slide_fingerprint="a" * 64, fingerprint="b" * 64,
        patch_fingerprint="c" * 64, model_fingerprint="d" * 64,
        slide=SlideGeometry(SizePx(side, side), MPP, "slide"), grid=grid, effective_mpp=8 * MPP,
        stride_px=4, class_names=("normal", "tumour"), target_class="tumour", method="gradient",
    )  # fmt: skip
    maps = rng.random((len(index), PATCH_PX // 32, PATCH_PX // 32)).astype(np.float32)
    saliency = out / "saliency" / "big.zarr"
    saliency.parent.mkdir(parents=True, exist_ok=True)
    write_saliency_store(saliency, meta, maps, np.column_stack([1 - p, p]),
                         grid.origins_px(index), index)  # fmt: skip
    stitch_slide(saliency, out / "maps" / "big.ome.zarr", StitchConfig())
    export_slide(out / "maps" / "big.ome.zarr", saliency, out / "overlays",
                 ExportConfig(formats=("geojson",)))  # fmt: skip
    table = StatusTable(out)
    table.plan(("big",))
    for stage in ("tile", "explain", "stitch", "export"):
        table.update("big", stage, "done")


class Client:
    """A browser's six connections, each kept open."""

    def __init__(self, link: str) -> None:
        self.host, _, path = link.removeprefix("http://").partition("/")
        answer = self._connection()
        answer.request("GET", "/" + path)
        self.cookie = answer.getresponse().getheader("Set-Cookie", "").partition(";")[0]
        self.pool = ThreadPoolExecutor(CONNECTIONS)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, timeout=60)

    def get(self, path: str) -> tuple[float, bytes]:
        began = time.perf_counter()
        connection = self._connection()
        connection.request("GET", path, headers={"Cookie": self.cookie})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        return time.perf_counter() - began, data


def memory_mb(pid: int) -> float:
    """Largest resident memory of a process so far."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(link: str, pid: int, n_tiles: int) -> dict[str, float]:
    client = Client(link)
    cpu, began = cpu_s(pid), time.perf_counter()
    facts = json.loads(client.get("/api/slide/big")[1])
    slide = facts["slide"]
    channel = facts["channels"].index("evidence: tumour")
    level = slide["max_level"] - max(0, int(np.ceil(np.log2(slide["width"] / 700))))
    side = -(-(slide["width"] >> (slide["max_level"] - level)) // slide["tile_px"])
    first = [f"/tiles/big/{level}/{c}_{r}.jpg" for c in range(side) for r in range(side)]
    jobs = [client.pool.submit(client.get, p) for p in (f"/map/big/{channel}.png", *first)]
    for job in jobs:
        job.result()
    view, view_cpu = time.perf_counter() - began, cpu_s(pid) - cpu
    rng = np.random.default_rng(1)
    asked: dict[str, None] = {}
    while len(asked) < n_tiles:
        at = int(rng.integers(slide["max_level"] - 5, slide["max_level"] + 1))
        across = -(-(slide["width"] >> (slide["max_level"] - at)) // slide["tile_px"])
        asked[f"/tiles/big/{at}/{rng.integers(across)}_{rng.integers(across)}.jpg"] = None
    cpu = cpu_s(pid)
    alone = [client.get(path)[0] for path in list(asked)[: n_tiles // 2]]
    together = list(client.pool.map(lambda p: client.get(p)[0], list(asked)[n_tiles // 2 :]))
    return {
        "first_view_s": round(view, 3),
        "first_view_cpu_s": round(view_cpu, 3),
        "tile_mean_cpu_ms": round(1e3 * (cpu_s(pid) - cpu) / n_tiles, 1),
        "tile_p50_ms": round(1e3 * float(np.quantile(alone, 0.5)), 1),
        "tile_p95_ms": round(1e3 * float(np.quantile(alone, 0.95)), 1),
        "tile_p95_six_at_once_ms": round(1e3 * float(np.quantile(together, 0.95)), 1),
        "server_peak_mb": round(memory_mb(pid)),
    }


DRAWN = (
    "typeof state !== 'undefined' && document.body.dataset.map && state.viewers.length === 2 && "
    "state.viewers.every(v => v.world.getItemAt(0)?.getFullyLoaded())"
)


def in_chromium(link: str) -> dict[str, float]:
    """Seconds until the slide's page is there, cold and warm."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "review"))
    from browser import Browser

    browser, root = Browser(), link.partition("?")[0]
    taken = []
    try:
        browser.open(link)
        for _ in range(4):
            began = time.perf_counter()
            browser.call("Page.navigate", url=f"{root}slide/big")
            browser.wait(DRAWN)
            taken.append(time.perf_counter() - began)
            browser.open("about:blank")
        assert browser.failures == [], browser.failures
    finally:
        browser.close()
    return {
        "chromium_first_view_s": round(taken[0], 3),
        "chromium_again_s": round(float(np.median(taken[1:])), 3),
    }


def start(out: Path, manifest: Path) -> tuple[subprocess.Popen[str], str]:
    """A review server and its link."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pathology_scaat", "review", str(out), "--no-browser",
         "--manifest", str(manifest)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, line[line.index("http") :].strip()


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--chromium", action="store_true")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    slide, out = given.scratch / "big.tiff", given.scratch / "out"
    given.scratch.mkdir(parents=True, exist_ok=True)
    if not slide.exists():
        write_big_slide(slide, given.side)
    if not (out / "slides.csv").exists():
        make_run(out, given.side)
    manifest = given.scratch / "cohort.csv"
    manifest.write_text(f"slide_path,slide_id,mpp\n{slide.absolute()},big,{MPP}\n")
    process, link = start(out, manifest)
    found = measure(link, process.pid, given.tiles)
    stop(process)
    if given.chromium:
        process, link = start(out, manifest)
        found |= in_chromium(link)
        stop(process)
    row = {
        "side_px": given.side, **found, "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(), "machine": platform.machine(),
    }  # fmt: skip
    print(json.dumps(row, indent=1))
    if given.out:
        given.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
