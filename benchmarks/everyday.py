"""What a hospital does every day: a model applied to new slides, from the file to the overlay.

    python benchmarks/everyday.py --out benchmarks/results/everyday-CPU.json
    python benchmarks/everyday.py --device cuda --networks resnet50 vit_small_patch16_224 \
        --patches 15000 --slides 3 --out FILE

Aperio-style slides are written, a bundle with random weights (speed does not depend on them), and
``scaat run --model`` is done on them by the Python API in a process of its own, with half overlap,
as by default. Printed are slides per hour, each stage's share, bytes on the disk by what they are,
and in the same run the bounds of explaining: the network alone on patches in memory (with
``--compile`` also as torch.compile makes it), and cutting the patches out of the slide alone.
Beside it, on some patches of the same slide, what users would write instead: a loop of a reader
(TIAToolbox's, or OpenSlide where that is not installed) and PyTorch's gradient in float32, 32 at
a time. On a GPU, also the share of the time in which it was busy, by its own counter.

Slides are stitched and exported while others are explained: on a CPU by the same workers, so that
the stage ``explain`` holds most of that. ``--apart`` has every stage wait for the one before, which
tells the rate of explaining by itself; on a GPU other processes do it, and it is told always, also
from the end of the first slide to that of the last, without what is paid once a run.

Wall times on a busy machine say little; ``cpu_s`` (all processes and threads) says more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from precision import machine
from synthetic_slides import MPP, write_slide

if TYPE_CHECKING:
    from pathology_scaat.saliency.batch_explainer import BatchExplainer

SIDE = 256
STEP = SIDE // 2
FIELDS = ("patches", "saliency", "maps", "overlays", "tissue", "model")


class Stopwatch:
    """A reporter that notes when each stage begins and ends, and each slide of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.slide_ends_s: dict[str, list[float]] = {}
        self.begins_s: dict[str, float] = {}
        self._started = time.perf_counter()
        self._begun: dict[str, float] = {}

    def begin(self, stage: str, total: int) -> None:
        self._begun[stage] = time.perf_counter()
        self.begins_s[stage] = self._begun[stage] - self._started

    def end(self, stage: str) -> None:
        took = time.perf_counter() - self._begun[stage]
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took

    def advance(self, stage: str, text: str = "") -> None:
        passed = time.perf_counter() - self._begun[stage]
        self.slide_ends_s.setdefault(stage, []).append(passed)

    def update(self, stage: str, completed: float, text: str = "") -> None: ...

    def note(self, text: str) -> None: ...


def write_slides(folder: Path, count: int, patches: int, real: Path | None) -> list[Path]:
    """Slides of at least so many patches, or copies of a real one; no two of the same bytes."""
    coarse = 16 * SIDE  # a tile of the coarsest level
    tissue = -(-round(patches**0.5) * STEP // coarse) * coarse
    made: list[Path] = []
    for number in range(count):
        if real is None and not made:
            path = write_slide(folder / "s0.svs", tissue * 2, (tissue, tissue))
        else:
            source = real or made[0]
            path = Path(shutil.copyfile(source, folder / f"s{number}{source.suffix}"))
        with path.open("ab") as stream:
            stream.write(b"\0" * (number + 1))  # slides of one size would be compared, whole
        made.append(path)
    return made


def write_model(folder: Path, name: str) -> Path:
    from pathology_scaat.training.backbones import Classifier, create_backbone
    from pathology_scaat.training.bundle import save_bundle
    from pathology_scaat.training.bundle_config import BundleConfig

    torch.manual_seed(0)
    mean, std = (0.7, 0.5, 0.6), (0.2, 0.2, 0.2)
    model = Classifier(create_backbone(name, 2, SIDE, {}), mean, std).eval()
    config = BundleConfig(
        class_names=("Normal", "Tumor"), positive_class="Tumor", patch_size_px=SIDE, mpp=MPP,
        backbone=name, mean=mean, std=std,
    )  # fmt: skip
    save_bundle(folder, model, config, wsinfer=False)
    return folder


def run_once(slides: Path, model: Path, out: Path, given: dict[str, Any], result: Any) -> None:
    """In a process of its own: the whole job, its stages and what they took."""
    from pathology_scaat.execution.engine import EngineConfig
    from pathology_scaat.pipeline.config import load_run_config
    from pathology_scaat.pipeline.run import run

    settings = load_run_config(
        None,
        {
            "manifest": slides, "out": out, "model": model, "device": given["device"],
            "keep_patches": given["keep"] or None,
            "explain": {
                "method": given["method"], "precision": given["precision"],
                "compile": given["compile"],
            },
        },
    )  # fmt: skip
    settings = settings.model_copy(update={"engine": EngineConfig(workers=given["workers"])})
    watch = Stopwatch()
    if given["apart"]:
        from pathology_scaat.pipeline.ahead import Ahead

        Ahead.ready = lambda self, slide_id: None  # type: ignore[method-assign]  # process of its own
    begin = time.perf_counter()
    with gpu_use(given["device"]) as busy:
        report = run(settings, reporter=watch)
    wall = time.perf_counter() - begin
    cpu = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    found = {"wall_s": wall, "cpu_s": cpu, "stages": watch.seconds, "failed": report.failed}
    found["stage_begins_s"] = watch.begins_s
    found["explain_slide_ends_s"] = watch.slide_ends_s.get("explain", [])
    if busy:
        found["gpu_busy"] = sum(busy) / len(busy) / 100
    result.put(found)


@contextmanager
def gpu_use(device: str) -> Iterator[list[int]]:
    """Readings of the GPU's own counter, in %, five a second; none where there is no GPU."""
    readings: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.2):
            try:
                readings.append(torch.cuda.utilization())
            except Exception:  # the counter's library is missing, or does not know the card
                return

    thread = threading.Thread(target=read, daemon=True)
    if device.startswith("cuda"):
        thread.start()
    try:
        yield readings
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@contextmanager
def timed(device: str) -> Iterator[dict[str, float]]:
    took: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield took
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    took |= {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def bounds(slide: Path, model: Path, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The network alone, the slide alone, and the loop that users would write."""
    from pathology_scaat.execution.devices import choose_device
    from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
    from pathology_scaat.saliency.arithmetic import chosen_precision, ready_to_explain
    from pathology_scaat.saliency.batch_explainer import BatchExplainer
    from pathology_scaat.saliency.config import ExplainConfig
    from pathology_scaat.saliency.sources import SlidePatches
    from pathology_scaat.training.bundle import load_bundle

    config = TileConfig(mpp=MPP, patch_size_px=SIDE, overlap="0.5")
    job = TileJob(slide, "s", folder / "positions.zarr", config, keep_pixels=False)
    tile_slide(job)
    store = PatchStore(folder / "positions.zarr")
    with timed("cpu") as cutting:
        n_cut = sum(len(batch) for batch in SlidePatches(store, job).batches(32))
    device = choose_device(given["device"])
    loaded = load_bundle(model, str(device)).model
    ready = ready_to_explain(loaded, SIDE, chosen_precision(given["precision"]))
    explainer = BatchExplainer(ready, 1, ExplainConfig(method=given["method"]), device)
    size = explainer.batch_size(SIDE)
    patches = np.random.default_rng(0).integers(0, 255, (size, SIDE, SIDE, 3), np.uint8)
    explainer(patches)
    repeats = max(1, given["bound_patches"] // size)
    network = of_network(explainer, patches, repeats, given["device"])
    more: dict[str, Any] = {}
    if given["compile"]:
        from pathology_scaat.saliency.batch_explainer import COMPILED_BATCH, compiled_batch

        settings = ExplainConfig(method=given["method"], compile=True)
        fixed = compiled_batch(settings, device) or COMPILED_BATCH
        with timed(given["device"]) as compiling:
            ready = ready_to_explain(loaded, SIDE, chosen_precision(given["precision"]), fixed)
            explainer = BatchExplainer(ready, 1, settings, device)
            explainer(patches[:fixed])
        n_repeats = max(1, given["bound_patches"] // fixed)
        more["network alone, compiled"] = of_network(
            explainer, patches[:fixed], n_repeats, given["device"]
        ) | {"patches": min(fixed, size) * n_repeats, "compiling_s": compiling["wall_s"]}
    for method in given["also"]:
        ready = ready_to_explain(loaded, SIDE, chosen_precision(given["precision"]))
        settings = ExplainConfig(method=method)
        explainer = BatchExplainer(ready, 1, settings, device)
        explainer(patches)
        more[f"network alone, {method}"] = of_network(
            explainer, patches, repeats, given["device"]
        ) | {"patches": size * repeats}
    corners = store.origins_px[: given["loop_patches"]]
    loop_over(slide, loaded, device, corners[:2])
    with timed(given["device"]) as loop:
        loop_over(slide, loaded, device, corners)
    found = {
        "network alone": network | {"patches": size * repeats, "batch": size},
        "slide alone": cutting | {"patches": n_cut},
        f"{reader_name()} + PyTorch loop": loop | {"patches": len(corners)},
        **more,
    }
    for row in found.values():
        row["patches_per_s"] = row["patches"] / row["wall_s"]
        row["patches_per_cpu_s"] = row["patches"] / row["cpu_s"]
    return found


def of_network(
    explainer: BatchExplainer, patches: Any, repeats: int, device: str
) -> dict[str, float]:
    """Time of so many batches that are in memory."""
    with timed(device) as took:
        pending = [part for _ in range(repeats) for part in explainer.start(patches)]
        for part in pending:
            part.result()
    return took


def reader_name() -> str:
    return "TIAToolbox" if importlib.util.find_spec("tiatoolbox") else "OpenSlide"


def reading(slide: Path) -> Callable[[int, int], Any]:
    """What reads one patch of level 0, by the corner."""
    if reader_name() == "TIAToolbox":
        from tiatoolbox.wsicore.wsireader import WSIReader

        reader = WSIReader.open(slide)
        return lambda x, y: reader.read_rect((x, y), (SIDE, SIDE), resolution=MPP, units="mpp")
    import openslide

    opened = openslide.OpenSlide(slide)
    return lambda x, y: np.asarray(opened.read_region((x, y), 0, (SIDE, SIDE)))[..., :3]


def loop_over(slide: Path, model: torch.nn.Module, device: torch.device, corners: Any) -> None:
    """Read, float32, 32 at a time, gradient by the pixels, map to the CPU."""
    read = reading(slide)
    for start in range(0, len(corners), 32):
        batch = np.stack([read(*xy) for xy in corners[start : start + 32].tolist()])
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div(255).to(device)
        images.requires_grad_(True)
        logits = model(images)
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), [images])
        gradient.abs().sum(1).cpu()
        logits.softmax(1).cpu()


def measure(
    name: str, given: dict[str, Any], folder: Path, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    (folder / "slides").mkdir()
    slides = write_slides(folder / "slides", given["slides"], given["patches"], given["slide"])
    model = write_model(folder / "model", name)
    # First, so that a compiled network is on the disk already, as it is from the second run on.
    found_bounds = bounds(slides[0], model, folder, given)
    keep({"bounds": found_bounds})  # there, should time be over before the whole job is done
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    words = (folder / "slides", model, folder / "out", given, queue)
    process = context.Process(target=run_once, args=words)
    process.start()
    found: dict[str, Any] = queue.get()
    process.join()
    slide_bytes = sum(path.stat().st_size for path in slides)
    on_disk = {name: folder_bytes(folder / "out" / name) for name in FIELDS}
    from pathology_scaat.saliency import SaliencyStore

    stores = sorted((folder / "out/saliency").glob("*.zarr"))
    n_patches = sum(len(SaliencyStore(path)) for path in stores)
    found |= {
        "slides": len(slides),
        "patches": n_patches,
        "slides_per_hour": 3600 * len(slides) / found["wall_s"],
        "stage_share": {k: v / found["wall_s"] for k, v in found["stages"].items()},
        "slide_bytes": slide_bytes,
        "bytes": on_disk,
        "patches_of_slide": on_disk["patches"] / slide_bytes,
        "bounds": found_bounds,
    }
    explain = found["stages"].get("explain")
    if explain and (given["apart"] or given["device"].startswith("cuda")):
        network = found["bounds"]["network alone"]["patches_per_s"]
        found["explain_patches_per_s"] = n_patches / explain
        found["explain_of_network_alone"] = n_patches / explain / network
        ends = found["explain_slide_ends_s"]
        if len(ends) > 1:  # the first slide waits for imports, the model and the device besides
            rest = n_patches * (len(ends) - 1) / len(ends) / (ends[-1] - ends[0])
            found["explain_after_first_patches_per_s"] = rest
    return found


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=["scaat-small"])
    parser.add_argument("--patches", type=int, default=900, help="per slide")
    parser.add_argument("--slide", type=Path, help="a real slide instead of drawn ones")
    parser.add_argument("--slides", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--method", default="gradient", help="of attribution; what can be compiled is the gradient"
    )
    parser.add_argument("--compile", action="store_true", help="the network, on a GPU")
    parser.add_argument(
        "--also", nargs="*", default=[], help="methods of which the network alone is timed as well"
    )
    parser.add_argument("--workers", type=int)
    parser.add_argument("--apart", action="store_true", help="one stage after the other")
    parser.add_argument("--keep", action="store_true", help="keep the patches")
    parser.add_argument("--bound-patches", type=int, default=128)
    parser.add_argument("--loop-patches", type=int, default=64)
    parser.add_argument("--out", type=Path)
    given = vars(parser.parse_args())
    out, networks = given.pop("out"), given.pop("networks")
    settings = {k: v.name if isinstance(v, Path) else v for k, v in given.items()}
    result: dict[str, Any] = {"machine": machine(), "settings": settings}
    for name in networks:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SCAAT_CACHE_DIR"] = f"{folder}/cache"

            def keep(found: dict[str, Any], name: str = name) -> None:
                result[name] = rounded(found)
                print(name, json.dumps(result[name], indent=1), flush=True)
                if out:
                    out.parent.mkdir(parents=True, exist_ok=True)
                    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

            keep(measure(name, given, Path(folder), keep))


if __name__ == "__main__":
    main()
