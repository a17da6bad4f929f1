"""Tiny slides with one label each, whose patches nobody labelled."""

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
from pathology_scaat.training.bags import BagConfig

SIDE = 32
CLASSES = ("normal", "tumour")
NEUTRAL = (228.0, 170.0, 205.0)

SlideMaker = Callable[..., TrainingSlide]


def draw_patches(
    shows: NDArray[np.integer], seed: int, stain: tuple[float, ...] = NEUTRAL
) -> NDArray[np.uint8]:
    """Noise of one stain; a patch that shows the class has a dark disc, the others a pale one."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(stain, 10, (len(shows), SIDE, SIDE, 3))
    y, x = np.mgrid[:SIDE, :SIDE]
    for patch, shown in zip(patches, shows, strict=True):
        cx, cy = rng.uniform(8, SIDE - 8, 2)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < 40
        factor = (0.42, 0.33, 0.68) if shown else (0.9, 0.85, 0.9)
        patch[disc] *= factor
    return np.clip(patches, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_bag(tmp_path_factory: pytest.TempPathFactory) -> SlideMaker:
    folder = tmp_path_factory.mktemp("bags")

    def make(
        slide_id: str,
        split: str,
        label: str | None,
        *,
        n: int = 24,
        n_showing: int | None = None,
        seed: int = 0,
        stain: tuple[float, ...] = NEUTRAL,
        patient_id: str | None = None,
    ) -> TrainingSlide:
        path = folder / f"{slide_id}-{split}-{n}-{seed}-{label}-{n_showing}-{stain[0]:g}.zarr"
        count = n_showing if n_showing is not None else (n // 4 if label == CLASSES[1] else 0)
        shows = np.random.default_rng(seed + 99).permutation(np.arange(n) < count).astype(int)
        columns = 6
        index = np.stack([np.arange(n) % columns, np.arange(n) // columns], 1)
        meta = PatchStoreMeta(
            slide_id=slide_id,
            slide_fingerprint=hashlib.sha256(path.name.encode()).hexdigest(),
            fingerprint=f"{slide_id}{n}{seed}{label}{count}{stain}",
            slide=SlideGeometry(SizePx(columns * SIDE, -(-n // columns) * SIDE), 0.5, "manifest"),
            grid=PatchGrid(0.0, 0.0, 1.0, SIDE, SIDE, columns, -(-n // columns)),
            requested_mpp=0.5,
            effective_mpp=0.5,
            level_read=0,
            class_names=CLASSES,
        )
        if not path.exists():
            write_patch_store(
                path,
                meta,
                draw_patches(shows, seed, stain),
                grid_index=index,
                label=np.full(n, -1, np.int16),
            )
        return TrainingSlide(path, slide_id, patient_id or f"patient-{slide_id}", split, label)

    return make


@pytest.fixture(scope="session")
def bag_slides(make_bag: SlideMaker) -> tuple[TrainingSlide, ...]:
    """Twelve slides to train on, six to validate, six to test; half of each show tumour."""
    plan = [("train", 12), ("val", 6), ("test", 6)]
    made, seed = [], 0
    for split, count in plan:
        for number in range(count):
            seed += 1
            made.append(make_bag(f"{split}-{number}", split, CLASSES[number % 2], seed=seed))
    return tuple(made)


@pytest.fixture
def quick_bags() -> TrainConfig:
    """A narrow network and small bags: seconds."""
    return TrainConfig(
        labels="slide",
        backbone_options={"widths": (8, 16)},
        epochs=6,
        patience=6,
        learning_rate=1e-2,
        augment=AugmentConfig(stain=0.05, stain_shift=0.0, brightness=0.05, contrast=0.05),
        bag=BagConfig(
            patches_per_bag=16,
            bags_per_step=4,
            draws_per_epoch=6,
            attention_width=16,
            attention_steps=40,
        ),
    )
