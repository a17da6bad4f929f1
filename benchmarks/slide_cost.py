r"""What learning from labels of slides, and explaining slides, costs beside patches.

CPU seconds of this process (``process_time``), so that a busy machine disturbs little; both sides
see the same patches of 64 px, the same number in each step (256), and the same small network. Runs
alternate, and of each the fastest counts.

- training, whole: patches one by one with the slide's label, and bags of 4 x 64 of them; plain and
  SCAAT from the first step. What validation, references and the bundle cost is part of it.
- explaining, whole: one slide under a model for patches and under one for bags, which encodes each
  patch once more.

::

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/slide_cost.py --out FILE
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
from pathology_scaat.patches.writer import write_patch_store
from pathology_scaat.saliency import ExplainConfig, explain_slide
from pathology_scaat.training import TrainConfig, TrainingSlide, train_model
from pathology_scaat.training.bags.train import train_on_slides

SIDE = 64
CLASSES = ("normal", "tumour")
COLUMNS = 16


def make_slide(folder: Path, number: int, split: str, n: int) -> TrainingSlide:
    """Noise of a colour by class; the patches have the slide's label."""
    rng = np.random.default_rng(number)
    own = number % 2
    pixels = rng.normal((200 - 40 * own, 150, 190), 20, (n, SIDE, SIDE, 3)).clip(0, 255)
    rows = -(-n // COLUMNS)
    meta = PatchStoreMeta(
        slide_id=f"s{number}",
        slide_fingerprint=f"{number:064x}",
        fingerprint=f"patches-{number}-{n}",
        slide=SlideGeometry(SizePx(COLUMNS * SIDE, rows * SIDE), 0.5, "manifest"),
        grid=PatchGrid(0.0, 0.0, 1.0, SIDE, SIDE, COLUMNS, rows),
        requested_mpp=0.5,
        effective_mpp=0.5,
        level_read=0,
        class_names=CLASSES,
    )
    index = np.stack([np.arange(n) % COLUMNS, np.arange(n) // COLUMNS], 1)
    path = folder / f"s{number}.zarr"
    write_patch_store(
        path, meta, pixels.astype(np.uint8), grid_index=index, label=np.full(n, own, np.int16)
    )
    return TrainingSlide(path, f"s{number}", f"p{number}", split, CLASSES[own])


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=8, help="to train on; a quarter validates")
    parser.add_argument("--patches", type=int, default=256, help="of each slide")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_val = max(2, given.slides // 4)
        slides = [
            make_slide(folder, k, "train" if k < given.slides else "val", given.patches)
            for k in range(given.slides + n_val)
        ]
        n_images = given.slides * given.patches * given.epochs
        found: dict[str, Any] = {"torch": torch.__version__, "images": n_images}
        for method in ("plain", "scaat"):
            seconds: dict[str, list[float]] = {"patches": [], "bags": []}
            base: dict[str, Any] = {
                "method": method, "epochs": given.epochs, "patience": given.epochs
            }  # fmt: skip
            # both from the first step
            whole = {"method_options": {"start": 0.0}} if method == "scaat" else {}
            draws = given.patches // 64
            bag = {"start": 0.0, "patches_per_bag": 64, "bags_per_step": 4,
                   "draws_per_epoch": draws,
                   "validation_patches": given.patches}  # fmt: skip
            one_by_one = TrainConfig.model_validate(
                {**base, **whole, "batch_size": 256, "labels": "copy"}
            )
            in_bags = TrainConfig.model_validate({**base, "labels": "slide", "bag": bag})
            for _ in range(given.repeats):
                for kind, work in (
                    ("patches", lambda c=one_by_one: train_model(
                        slides, folder / "patches", c, device="cpu", overwrite=True)),
                    ("bags", lambda c=in_bags: train_on_slides(
                        slides, folder / "bags", c, device="cpu", overwrite=True)),
                ):  # fmt: skip
                    seconds[kind].append(cpu_seconds(work))
            best = {kind: min(values) for kind, values in seconds.items()}
            found[f"training {method}"] = {
                **{f"ms_per_image_{k}": round(1e3 * v / n_images, 4) for k, v in best.items()},
                "bags_over_patches": round(best["bags"] / best["patches"], 4),
            }
            print(method, found[f"training {method}"], flush=True)
        times: dict[str, list[float]] = {"patches": [], "bags": []}
        config = ExplainConfig(method="gradient", batch_size=64, precision="float32")
        for repeat in range(given.repeats + 1):
            for kind, values in times.items():
                work_one = cpu_seconds(
                    lambda kind=kind, repeat=repeat: explain_slide(
                        slides[0].store, folder / kind, folder / f"{kind}-{repeat}.zarr", config,
                        device="cpu",
                    )
                )  # fmt: skip
                if repeat:  # the first one loads what the others have
                    values.append(work_one)
        best = {kind: min(values) for kind, values in times.items()}
        found["explaining"] = {
            **{f"ms_per_patch_{k}": round(1e3 * v / given.patches, 4) for k, v in best.items()},
            "bags_over_patches": round(best["bags"] / best["patches"], 4),
        }
        print("explaining", found["explaining"], flush=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
