"""What a slide costs whatever its size: CPU seconds of each stage for many tiny slides.

python benchmarks/tiny_slides.py --json benchmarks/results/tiny-slides.json [--profile FILE]

Slides of a few patches are tiled, explained (``scaat-small``, no store of pixels), predicted,
stitched and exported in this process, after a few others that warm it up: imports do not count.
``whole`` is a run as it is; the stages are of a second run, where each waits for the one before.
``network_alone`` is what computing the same number of patches takes, with nothing around it:
``overhead`` is the whole without that.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from everyday import write_model
from precision import machine
from scale import write_small_slides

from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline.ahead import Ahead
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.run import run
from pathology_scaat.saliency import SaliencyStore
from pathology_scaat.saliency.arithmetic import chosen_precision, ready_to_explain
from pathology_scaat.saliency.batch_explainer import BatchExplainer
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.training.bundle import load_bundle


class StageTimes:
    """A reporter that adds up the CPU seconds between begin and end of each stage."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def begin(self, stage: str, total: int) -> None:
        self._begun[stage] = time.process_time()

    def end(self, stage: str) -> None:
        self.cpu_s[stage] = time.process_time() - self._begun[stage]

    def advance(self, stage: str, text: str = "") -> None: ...

    def update(self, stage: str, completed: float, text: str = "") -> None: ...

    def note(self, text: str) -> None: ...


def once(folder: Path, count: int, model: Path, formats: list[str] | None) -> dict[str, float]:
    """CPU seconds of all stages, and of the whole."""
    slides = folder / "slides"
    slides.mkdir(parents=True)
    write_small_slides(slides, count)
    settings = load_run_config(
        None,
        {
            "manifest": slides, "out": folder / "out", "model": model, "device": "cpu",
            "export": {"formats": formats} if formats else {},
        },
    )  # fmt: skip
    settings = settings.model_copy(update={"engine": EngineConfig(workers=0)})
    watch, began = StageTimes(), time.process_time()
    report = run(settings, reporter=watch)
    if report.failed:
        raise SystemExit(str(report.failed))
    return {**watch.cpu_s, "whole": time.process_time() - began}


def stages_after_each_other(
    folder: Path, count: int, model: Path, formats: list[str] | None
) -> dict[str, float]:
    """CPU seconds of each stage, where none is done beside another."""
    together, Ahead.ready = Ahead.ready, lambda self, slide_id: None  # type: ignore[method-assign]
    try:
        return once(folder, count, model, formats)
    finally:
        Ahead.ready = together  # type: ignore[method-assign]


def network_alone(model: Path, n_patches: int, repeats: int) -> float:
    """CPU seconds of explaining so many patches that are in memory."""
    device = torch.device("cpu")
    loaded = load_bundle(model, "cpu")
    side = loaded.config.patch_size_px
    ready = ready_to_explain(loaded.model, side, chosen_precision("auto"))
    explainer = BatchExplainer(ready, 1, ExplainConfig(method="gradient"), device)
    patches = np.random.default_rng(0).integers(0, 255, (n_patches, side, side, 3), np.uint8)
    explainer(patches)
    began = time.process_time()
    for _ in range(repeats):
        explainer(patches)
    return (time.process_time() - began) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--formats", nargs="+", default=None)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = write_model(folder / "model", "scaat-small")
        once(folder / "warm", 2, model, given.formats)
        profile = cProfile.Profile() if given.profile else None
        if profile:
            profile.enable()
        took = once(folder / "timed", given.slides, model, given.formats)
        if profile:
            profile.disable()
            profile.dump_stats(given.profile)
        parts = stages_after_each_other(folder / "parts", given.slides, model, given.formats)
        stores = sorted((folder / "timed/out/saliency").glob("*.zarr"))
        n_patches = round(sum(len(SaliencyStore(path)) for path in stores) / len(stores))
        network = network_alone(model, n_patches, given.slides)
    per_slide: dict[str, Any] = {k: round(v / given.slides, 4) for k, v in parts.items()}
    whole = took["whole"] / given.slides
    per_slide |= {
        "whole": round(whole, 4), "network_alone": round(network, 4),
        "overhead": round(whole - network, 4),
    }  # fmt: skip
    result = {
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "slides": given.slides,
        "patches_per_slide": n_patches,
        "formats": given.formats or "by default",
        "cpu_s_per_slide": per_slide,
    }
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
