"""Held-out figures of a patch model are of patches whose labels are their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saliency_fixtures import copy_label

from pathology_scaat.training import TrainConfig, TrainingSlide
from pathology_scaat.training.builders import make_tables
from pathology_scaat.training.bundle_quality import COPIED_LABELS
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.judging import judges_of, own_labels
from pathology_scaat.training.train import train_model

CLASSES = ("normal", "tumour")


@pytest.fixture(scope="module")
def mixed(make_slide) -> tuple[TrainingSlide, ...]:
    """Annotated validation and test slides beside some whose label was copied."""
    made = [
        make_slide("ma", "train", 64, 11),
        make_slide("mb", "val", 24, 12),
        make_slide("mc", "val", 40, 13, labels=np.ones(40, np.int64)),
        make_slide("md", "val", 16, 14, labels=np.zeros(16, np.int64)),
        make_slide("me", "test", 16, 15, labels=np.ones(16, np.int64)),
    ]
    for slide, label in zip(made[2:], ("tumour", "normal", "tumour"), strict=True):
        copy_label(slide.store, label)
    return tuple(made)


def test_only_labels_that_are_the_patches_own_count(mixed, quick: TrainConfig) -> None:
    tables = make_tables(mixed, quick, CLASSES, 0)
    assert len(tables.val) == 24 + 16, "annotated, and of a slide that shows nothing"
    assert len(tables.val_judges.whole) == 80
    assert (tables.val_judges.whole.labels < 0).sum() == 40
    assert not tables.val_judges.copied
    assert any("40 validation patch(es) of 1 slide(s)" in note for note in tables.notes)
    alone = judges_of(make_tables(mixed[:1] + mixed[2:4], quick, CLASSES, 0).val, CLASSES)
    assert alone.copied, "what shows nothing is one class: there is nothing to tell apart"
    assert len(alone.table) == 56


def test_the_bundle_is_judged_by_annotated_patches(
    mixed, quick: TrainConfig, tmp_path: Path
) -> None:
    settings = quick.model_copy(update={"epochs": 2})
    result = train_model(mixed, tmp_path, settings, device="cpu")
    config = read_bundle_config(result.bundle_path)
    held = config.held_out
    assert held is not None
    assert held.source == "validation slides", "test patches have copied labels of one class"
    assert (held.n_patches, held.n_copied, held.judged) == (40, 40, None)
    assert "without 40 that have their slide's label copied onto them" in held.text()
    assert result.metrics["n_val_patches"] == 40
    # the copied ones change nothing: as if their slide were not there
    without = train_model(
        tuple(s for s in mixed if s.slide_id != "mc"), tmp_path / "w", settings, device="cpu"
    )
    other = read_bundle_config(without.bundle_path)
    assert other.temperature == config.temperature != 1.0
    assert other.held_out is not None
    assert held.auc == other.held_out.auc
    assert held.balanced_accuracy == other.held_out.balanced_accuracy


def test_copied_labels_calibrate_nothing(mixed, quick: TrainConfig, tmp_path: Path) -> None:
    slides = (mixed[0], replace(mixed[1], split="test"), mixed[2], mixed[3])
    settings = quick.model_copy(update={"epochs": 1})
    config = read_bundle_config(train_model(slides, tmp_path, settings, device="cpu").bundle_path)
    assert config.temperature == 1.0
    assert not config.is_calibrated
    assert config.held_out is not None
    assert config.held_out.judged is None, "annotated test patches judge"
    only = train_model(slides[:1] + slides[2:], tmp_path / "only", settings, device="cpu")
    held = read_bundle_config(only.bundle_path).held_out
    assert held is not None
    assert held.judged == COPIED_LABELS
    assert only.nothing_learnt == ""
    assert any("neither" in note or "say neither" in note for note in only.notes)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_which_labels_judge_is_one_rule(patches: list[tuple[int, bool]]) -> None:
    labels = np.array([label for label, _ in patches], int)
    doubtful = np.array([copied for _, copied in patches], bool)
    keep, copied = own_labels(labels, doubtful)
    sure = set(labels[~doubtful].tolist())
    if copied:
        assert keep.all()
        assert len(sure) < 2
    else:
        assert (keep == ~doubtful).all()
        assert len(sure) >= min(2, len(set(labels.tolist())))
