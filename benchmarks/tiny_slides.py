"""What a slide costs whatever its size: CPU seconds of each stage for many tiny slides.

python benchmarks/tiny_slides.py --json benchmarks/results/tiny-slides.json [--profile FILE]

Slides of a few patches are tiled, explained (``scaat-small``, no store of pixels), predicted,
stitched and exported in this process, after a few others that warm it up: imports do not count.

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

import torch
from everyday import write_model
from precision import machine
from scale import write_small_slides

from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.run import run


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
    per_slide: dict[str, Any] = {k: round(v / given.slides, 4) for k, v in took.items()}
    result = {
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "slides": given.slides,
        "formats": given.formats or "by default",
        "cpu_s_per_slide": per_slide,
    }
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
