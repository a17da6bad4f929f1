"""One small run from labels of slides to performance, shared by the tests of its documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.run import run

SETTINGS = {
    "tile": {"mpp": 0.5, "patch_size_px": 32, "overlap": "0"},
    "train": {
        "epochs": 2, "patience": 2, "learning_rate": 1e-2, "backbone_options": {"widths": (8, 16)},
        "bag": {"patches_per_bag": 16, "draws_per_epoch": 1, "attention_width": 8,
                "attention_steps": 20},
    },
    "export": {"formats": ["geojson"]},
    "engine": {"workers": 0},
}  # fmt: skip
SPLITS = ("train", "train", "train", "train", "val", "val", "test", "test")


def _draw(path: Path, seed: int, positive: bool, side: int = 256) -> None:
    """Pink tissue on glass; a positive slide is dark at its right."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 244, np.uint8)
    image[24:-24, 24:-24] = (222, 160, 196)
    if positive:
        image[24:-24, side // 2 : -24 : 8] = (92, 60, 140)
    noise = rng.integers(-6, 7, image.shape, dtype=np.int16)
    tifffile.imwrite(
        path, np.clip(image + noise, 0, 255).astype(np.uint8), tile=(64, 64), photometric="rgb",
        compression="deflate", resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
        metadata=None,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of eight good slides and one that is none; no test writes into it."""
    folder = tmp_path_factory.mktemp("documents")
    lines = ["slide_path,slide_id,patient_id,label,split"]
    for number, split in enumerate(SPLITS):
        _draw(folder / f"s{number}.tiff", number, number % 2 == 1)
        label = ("Normal", "Tumor")[number % 2]
        lines.append(f"s{number}.tiff,slide-{number},Jane Doe {number},{label},{split}")
    (folder / "broken.tiff").write_bytes(b"not a slide")
    lines.append("broken.tiff,slide-9,Jane Doe 9,Normal,train")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = folder / "out"
    run(load_run_config(None, {**SETTINGS, "manifest": folder / "cohort.csv", "out": out}))
    return out
