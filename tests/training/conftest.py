"""Tiny patch stores with a task that a small network learns in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
from pathology_scaat.patches.writer import write_patch_store
from pathology_scaat.training import AugmentConfig, TrainConfig, TrainingSlide

SIDE = 32
CLASSES = ("normal", "tumour")

StoreMaker = Callable[..., TrainingSlide]


def make_patches(labels: NDArray[np.integer], seed: int) -> NDArray[np.uint8]:
    """Pink noise; class 1 has a dark violet disc somewhere, class 2 two."""
    rng = np.random.default_rng(seed)
    patches = rng.normal((228, 170, 205), 12, (len(labels), SIDE, SIDE, 3))
    y, x = np.mgrid[:SIDE, :SIDE]
    for patch, label in zip(patches, labels, strict=True):
        for _ in range(int(label)):
            cx, cy = rng.uniform(8, SIDE - 8, 2)
            disc = (x - cx) ** 2 + (y - cy) ** 2 < 36
            patch[disc] = rng.normal((95, 55, 140), 12, (int(disc.sum()), 3))
    return np.clip(patches, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_slide(tmp_path_factory: pytest.TempPathFactory) -> StoreMaker:
    folder = tmp_path_factory.mktemp("stores")

    def make(
        slide_id: str,
        split: str,
        n: int = 64,
        seed: int = 0,
        class_names: tuple[str, ...] = CLASSES,
        labels: NDArray[np.integer] | None = None,
        coverage: NDArray[np.floating] | None = None,
    ) -> TrainingSlide:
        path = folder / f"{slide_id}-{split}-{n}-{seed}-{len(class_names)}.zarr"
        if labels is None:
            labels = np.arange(n) % len(class_names)
        columns = 8
        rows = -(-len(labels) // columns)
        index = np.stack([np.arange(len(labels)) % columns, np.arange(len(labels)) // columns], 1)
        meta = PatchStoreMeta(
            slide_id=slide_id,
            slide_fingerprint=hashlib.sha256(slide_id.encode()).hexdigest(),
            fingerprint=f"{slide_id}{n}{seed}",
            slide=SlideGeometry(SizePx(columns * SIDE, rows * SIDE), 0.5, "manifest"),
            grid=PatchGrid(0.0, 0.0, 1.0, SIDE, SIDE, columns, rows),
            requested_mpp=0.5,
            effective_mpp=0.5,
            level_read=0,
            class_names=class_names,
        )
        write_patch_store(
            path,
            meta,
            make_patches(np.maximum(labels, 0), seed),
            grid_index=index,
            label=labels.astype(np.int16),
            label_coverage=coverage,
        )
        return TrainingSlide(path, slide_id, f"patient-{slide_id}", split)

    return make


@pytest.fixture(scope="session")
def slides(make_slide: StoreMaker) -> tuple[TrainingSlide, ...]:
    return (
        make_slide("a", "train", 64, 1),
        make_slide("b", "train", 40, 2),
        make_slide("c", "val", 48, 3),
        make_slide("d", "test", 32, 4),
    )


@pytest.fixture
def quick() -> TrainConfig:
    """A few epochs of a narrow network."""
    return TrainConfig(
        backbone_options={"widths": (8, 16)},
        epochs=4,
        batch_size=16,
        learning_rate=5e-3,
        monitor_images=16,
        augment=AugmentConfig(),
    )
