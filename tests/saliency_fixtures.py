"""Small things that every test of saliency needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.patches.schema import SlideGeometry
from pathology_scaat.saliency.schema import SaliencyStoreMeta


@pytest.fixture
def saliency_meta() -> SaliencyStoreMeta:
    n_cols, n_rows, patch_px, stride_px = 3, 2, 32, 4
    grid = PatchGrid(0.0, 0.0, 1.0, patch_px, patch_px // 2, n_cols, n_rows)
    side = patch_px * max(n_cols, n_rows)
    return SaliencyStoreMeta(
        slide_id="s1",
        slide_fingerprint="a" * 64,
        fingerprint="b" * 64,
        patch_fingerprint="c" * 64,
        model_fingerprint="d" * 64,
        slide=SlideGeometry(SizePx(side, side), 0.5, "slide"),
        grid=grid,
        effective_mpp=0.5,
        stride_px=stride_px,
        class_names=("normal", "tumour"),
        target_class="tumour",
        method="gradient",
    )


@pytest.fixture
def small_cnn() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(8, 12, 3, padding=1, stride=2),
        torch.nn.ReLU(inplace=True),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 3),
    )


@pytest.fixture
def rgb_batch() -> torch.Tensor:
    return torch.rand((5, 3, 16, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def random_maps() -> np.ndarray:
    return np.random.default_rng(0).random((6, 12, 10)).astype(np.float32)


CLASSES = ("normal", "tumour")


def copy_label(store: Path, label: str) -> None:
    """Let a store be one whose slide's label was copied onto every patch, as tiling leaves it."""
    record = store / "zarr.json"
    values = json.loads(record.read_text())
    values["attributes"]["pathology_scaat"]["parameters"]["inputs"] = {
        "mpp": None, "label": label, "annotation": None, "mask": None,
    }  # fmt: skip
    record.write_text(json.dumps(values))


class RunFolder:
    """A small output folder as ``scaat run`` leaves it: stores, a model, ``slides.csv``."""

    def __init__(self, out: Path, patch_px: int = 32, model_seed: int = 0) -> None:
        self.out, self.patch_px = out, patch_px
        self.model = out / "model"
        self.save_model(self.model, model_seed)

    def save_model(self, path: Path, seed: int, **changes: object) -> None:
        from pathology_scaat.training.backbones import Classifier, create_backbone
        from pathology_scaat.training.bundle import save_bundle
        from pathology_scaat.training.bundle_config import BundleConfig

        torch.manual_seed(seed)
        n_classes = len(cast(tuple[str, ...], changes.get("class_names", CLASSES)))
        backbone = create_backbone("scaat-small", n_classes, self.patch_px, {})
        classifier = Classifier(backbone, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval()
        config = {
            "class_names": CLASSES, "positive_class": "tumour", "patch_size_px": self.patch_px,
            "mpp": 0.5, "backbone": "scaat-small",
            "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25),
        }  # fmt: skip
        save_bundle(path, classifier, BundleConfig(**(config | changes)), wsinfer=False)

    def add_slide(self, slide_id: str, n: int = 12, seed: int = 0, labelled: bool = True) -> Path:
        from pathology_scaat.patches import PatchStoreMeta, write_patch_store

        rng = np.random.default_rng(seed)
        grid = PatchGrid(0.0, 0.0, 1.0, self.patch_px, self.patch_px, 4, -(-n // 4))
        size = SizePx(grid.n_cols * self.patch_px, grid.n_rows * self.patch_px)
        meta = PatchStoreMeta(
            slide_id=slide_id, slide_fingerprint=f"{seed:064d}", fingerprint=f"{n + seed:064x}",
            slide=SlideGeometry(size, 0.5, "slide"), grid=grid, requested_mpp=0.5,
            effective_mpp=0.5, level_read=0, class_names=CLASSES,
        )  # fmt: skip
        path = self.out / "patches" / f"{slide_id}.zarr"
        labels = rng.integers(0, 2, n) if labelled else np.full(n, -1)
        write_patch_store(
            path, meta, rng.integers(0, 256, (n, self.patch_px, self.patch_px, 3), dtype=np.uint8),
            grid_index=grid.all_indices()[:n], label=labels,
        )  # fmt: skip
        return path

    def write_splits(self, **splits: str) -> None:
        """Into the table; a bundle that is to count them as held out records them itself."""
        rows = "".join(f"{slide},{split}\n" for slide, split in splits.items())
        (self.out / "slides.csv").write_text(f"slide_id,split\n{rows}")


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "out")
