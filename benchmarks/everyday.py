"""What a hospital does every day: a model applied to new slides, from the file to the overlay.

    python benchmarks/everyday.py --out benchmarks/results/everyday-CPU.json
    python benchmarks/everyday.py --device cuda --networks resnet50 vit_small_patch16_224 \
        --patches 15000 --slides 3 --out FILE

Aperio-style slides are written, a bundle with random weights (speed does not depend on them), and
``scaat run --model`` is done on them by the Python API in a process of its own, with half overlap,
as by default. Told are slides an hour, each stage's share, bytes on the disk by what they are, and
in the same run the bounds of explaining: the network alone on patches in memory, and cutting the
patches out of the slide alone. Beside it, on some patches of the same slide, what users would
write instead: a loop of TIAToolbox's reader and PyTorch's gradient in float32, 32 at a time.

Wall times on a busy machine say little; ``cpu_s`` (all processes and threads) says more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from precision import machine
from synthetic_slides import MPP, write_slide

SIDE = 256
STEP = SIDE // 2
FIELDS = ("patches", "saliency", "maps", "overlays", "tissue", "model")


class Stopwatch:
    """A reporter that notes when each stage begins and ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def begin(self, stage: str, total: int) -> None:
        self._begun[stage] = time.perf_counter()

    def end(self, stage: str) -> None:
        took = time.perf_counter() - self._begun[stage]
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took

    def advance(self, stage: str, text: str = "") -> None: ...

    def update(self, stage: str, completed: float, text: str = "") -> None: ...

    def note(self, text: str) -> None: ...


def write_slides(folder: Path, count: int, patches: int, real: Path | None) -> list[Path]:
    """Slides of at least so many patches, or copies of a real one; no two of the same bytes."""
    coarse = 16 * SIDE  # a tile of the coarsest level
    tissue = -(-round(patches**0.5) * STEP // coarse) * coarse
    made = []
    for number in range(count):
        if real is None:
            path = write_slide(folder / f"s{number}.svs", tissue * 2, (tissue, tissue))
        else:
            path = Path(shutil.copyfile(real, folder / f"s{number}{real.suffix}"))
        with path.open("ab") as stream:
            stream.write(b"%d" % number)
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
            "explain": {"precision": given["precision"]},
        },
    )  # fmt: skip
    settings = settings.model_copy(update={"engine": EngineConfig(workers=given["workers"])})
    watch = Stopwatch()
    begin = time.perf_counter()
    report = run(settings, reporter=watch)
    wall = time.perf_counter() - begin
    cpu = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    result.put({"wall_s": wall, "cpu_s": cpu, "stages": watch.seconds, "failed": report.failed})


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
    job = TileJob(slide, "s", folder / "places.zarr", config, keep_pixels=False)
    tile_slide(job)
    store = PatchStore(folder / "places.zarr")
    with timed("cpu") as cutting:
        n_cut = sum(len(batch) for batch in SlidePatches(store, job).batches(32))
    device = choose_device(given["device"])
    loaded = load_bundle(model, str(device)).model
    ready = ready_to_explain(loaded, SIDE, chosen_precision(given["precision"]))
    explainer = BatchExplainer(ready, 1, ExplainConfig(), device)
    size = explainer.batch_size(SIDE)
    patches = np.random.default_rng(0).integers(0, 255, (size, SIDE, SIDE, 3), np.uint8)
    explainer(patches)
    repeats = max(1, given["bound_patches"] // size)
    with timed(given["device"]) as network:
        pending = [part for _ in range(repeats) for part in explainer.start(patches)]
        for part in pending:
            part.result()
    places = store.origins_px[: given["loop_patches"]]
    loop_over(slide, loaded, device, places[:2])
    with timed(given["device"]) as loop:
        loop_over(slide, loaded, device, places)
    found = {
        "network alone": network | {"patches": size * repeats, "batch": size},
        "slide alone": cutting | {"patches": n_cut},
        "TIAToolbox + PyTorch loop": loop | {"patches": len(places)},
    }
    for row in found.values():
        row["patches_per_s"] = row["patches"] / row["wall_s"]
        row["patches_per_cpu_s"] = row["patches"] / row["cpu_s"]
    return found


def loop_over(slide: Path, model: torch.nn.Module, device: torch.device, places: Any) -> None:
    """Read with TIAToolbox, float32, 32 at a time, gradient by the pixels, map to the CPU."""
    from tiatoolbox.wsicore.wsireader import WSIReader

    reader = WSIReader.open(slide)
    for start in range(0, len(places), 32):
        batch = np.stack([
            reader.read_rect(tuple(xy), (SIDE, SIDE), resolution=MPP, units="mpp")
            for xy in places[start : start + 32].tolist()
        ])  # fmt: skip
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div(255).to(device)
        images.requires_grad_(True)
        logits = model(images)
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), [images])
        gradient.abs().sum(1).cpu()
        logits.softmax(1).cpu()


def measure(name: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "slides").mkdir()
    slides = write_slides(folder / "slides", given["slides"], given["patches"], given["slide"])
    model = write_model(folder / "model", name)
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
        "bounds": bounds(slides[0], model, folder, given),
    }
    explain = found["stages"].get("explain")
    if explain:
        network = found["bounds"]["network alone"]["patches_per_s"]
        found["explain_patches_per_s"] = n_patches / explain
        found["explain_of_network_alone"] = n_patches / explain / network
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
    parser.add_argument("--workers", type=int)
    parser.add_argument("--keep", action="store_true", help="keep the patches")
    parser.add_argument("--bound-patches", type=int, default=128)
    parser.add_argument("--loop-patches", type=int, default=64)
    parser.add_argument("--out", type=Path)
    given = vars(parser.parse_args())
    out, networks = given.pop("out"), given.pop("networks")
    told = {k: v.name if isinstance(v, Path) else v for k, v in given.items()}
    result: dict[str, Any] = {"machine": machine(), "settings": told}
    for name in networks:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SCAAT_CACHE_DIR"] = f"{folder}/cache"
            result[name] = rounded(measure(name, given, Path(folder)))
        print(name, json.dumps(result[name], indent=1), flush=True)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
