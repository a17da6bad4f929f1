"""Annotated patches where there are some, bags elsewhere, in one training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bags.conftest import CLASSES, SlideMaker, draw_patches

from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.writer import write_patch_store
from pathology_scaat.training import TrainConfig, TrainingSlide
from pathology_scaat.training.bags.data import annotated_patches, annotated_steps, make_bags
from pathology_scaat.training.bags.train import bag_fingerprint, train_on_slides


def annotated(slide: TrainingSlide, path: Path, names: tuple[str, ...] = CLASSES) -> TrainingSlide:
    """The same slide with every patch annotated: what it shows is what the first quarter does."""
    store = PatchStore(slide.store)
    shows = np.arange(len(store)) < len(store) // 4
    meta = dataclasses.replace(
        store.meta, class_names=names, fingerprint=f"{store.meta.fingerprint}-annotated",
        label_fingerprint="drawn",
    )  # fmt: skip
    write_patch_store(
        path, meta, draw_patches(shows.astype(int), 7), grid_index=store.grid_index,
        label=shows.astype(np.int16),
    )  # fmt: skip
    return dataclasses.replace(slide, store=path)


def test_classes_are_drawn_by_their_shares_and_nothing_unknown() -> None:
    labels = np.array([-1] * 50 + [0] * 40 + [1] * 3)
    steps = annotated_steps(labels, np.array([1.0, 1.0, 1.0]), 60, 20, np.random.default_rng(0))
    assert [len(step.patches) for step in steps] == [20, 20, 20]
    drawn = np.concatenate([step.labels for step in steps])
    assert np.bincount(drawn).tolist() == [30, 30]  # class 2 has no patch
    assert all((labels[step.patches] == step.labels).all() for step in steps)
    assert annotated_steps(np.full(9, -1), np.ones(2), 60, 20, np.random.default_rng(0)) == []


def test_one_annotated_slide_helps_and_is_reported(
    bag_slides: tuple[TrainingSlide, ...], quick_bags: TrainConfig, tmp_path: Path
) -> None:
    slides = list(bag_slides)
    first = next(k for k, s in enumerate(slides) if s.split == "train" and s.label == "tumour")
    slides[first] = annotated(slides[first], tmp_path / "a.zarr")
    config = quick_bags.model_copy(update={"labels": "mixed", "epochs": 4})
    table = make_bags([s for s in slides if s.split == "train"], CLASSES)
    known = annotated_patches(table, CLASSES)
    assert np.bincount(known[known >= 0]).tolist() == [18, 6]
    made = train_on_slides(slides, tmp_path / "m", config, device="cpu")
    assert made.metrics["val_slide_auc"] > 0.9
    note = next(n for n in made.notes if n.startswith("Mixed labels"))
    assert "1 of 12 training slides (normal 18, tumour 6)" in note
    used = [s for s in slides if s.split != "test"]
    bags_alone = bag_fingerprint(used, quick_bags, CLASSES, 0)
    assert bag_fingerprint(used, config, CLASSES, 0) != bags_alone
    # the share of annotated patches decides nothing where there are none
    other = quick_bags.model_copy(
        update={"bag": quick_bags.bag.model_copy(update={"annotated_share": 0.1})}
    )
    assert bag_fingerprint(used, other, CLASSES, 0) == bags_alone


def test_classes_that_no_slide_has_are_not_learnt(make_bag: SlideMaker, tmp_path: Path) -> None:
    slide = annotated(
        make_bag("foreign", "train", "tumour", seed=5), tmp_path / "b.zarr", ("stroma", "tumour")
    )
    known = annotated_patches(make_bags([slide], CLASSES), CLASSES)
    assert np.bincount(known + 1).tolist() == [18, 0, 6]  # stroma is no class of slides


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_without_annotations_it_says_so(
    bag_slides: tuple[TrainingSlide, ...], quick_bags: TrainConfig, tmp_path: Path, trainable: str
) -> None:
    config = quick_bags.model_copy(
        update={"labels": "mixed", "epochs": 1, "trainable": trainable, "method": "plain"}
    )
    made = train_on_slides(bag_slides, tmp_path / "m", config, device="cpu")
    assert any("labels of slides alone" in note for note in made.notes)
