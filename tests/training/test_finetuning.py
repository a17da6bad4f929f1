"""Fine-tuning: which settings go on, and what is said of blocks that may have been learnt from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pathology_scaat.errors import UsageError
from pathology_scaat.patches.identity import dataset_fingerprint
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.pipeline.finetune import _block_notes
from pathology_scaat.pipeline.preflight import check_training
from pathology_scaat.training import TrainConfig, TrainingSlide
from pathology_scaat.training.bundle_config import BundleConfig, DataYears
from pathology_scaat.training.description import data_years
from pathology_scaat.training.finetune import UNKNOWN_RATE, FinetuneConfig, finetune_settings


def bundle(**more: Any) -> BundleConfig:
    return BundleConfig(
        class_names=("normal", "tumour"), positive_class="normal", patch_size_px=32, mpp=0.5,
        backbone="resnet18", backbone_options={"drop_rate": 0.1}, mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2), **more,
    )  # fmt: skip


def test_a_models_own_habits_go_on() -> None:
    own = TrainConfig(
        learning_rate=5e-4, batch_size=24, class_balance="sampling", epochs=77, method="plain",
        method_options={}, patience=3, ema_decay=0.9,
    )  # fmt: skip
    found = finetune_settings(bundle(training=own.model_dump(mode="json")), FinetuneConfig())
    assert found.learning_rate == pytest.approx(5e-5)
    assert (found.batch_size, found.class_balance, found.epochs) == (24, "sampling", 4)
    assert (found.method, found.method_options) == ("scaat", {"start": 0.0})
    assert (found.backbone, found.backbone_options) == ("resnet18", {"drop_rate": 0.1})
    assert found.positive_class == "normal"
    assert found.patience == found.epochs


@pytest.mark.parametrize("training", [{}, {"program": "another"}, {"learning_rate": "fast"}])
def test_a_model_of_another_program_gets_a_low_rate(training: dict[str, Any]) -> None:
    found = finetune_settings(bundle(training=training), FinetuneConfig())
    assert found.learning_rate == UNKNOWN_RATE
    asked = finetune_settings(bundle(training=training), FinetuneConfig(learning_rate=0.01))
    assert asked.learning_rate == 0.01


@pytest.mark.parametrize("method", ["plain", "sgt", "fgsm", "gradient-penalty", "random-mask"])
def test_every_method_can_fine_tune(method: str) -> None:
    check_training(finetune_settings(bundle(), FinetuneConfig(method=method)), 32)


def test_the_years_of_the_model_before_are_among_the_new_ones() -> None:
    before = DataYears(trained=2020, first=2012, last=2015, n_dated=3, n_slides=4)
    assert finetune_settings(bundle(data_years=before), FinetuneConfig()).data_years
    assert not finetune_settings(bundle(), FinetuneConfig()).data_years
    found = data_years([], bundle(data_years=before))
    assert (found.first, found.last, found.n_dated, found.n_slides) == (2012, 2015, 3, 4)
    assert found.trained > 2020


def test_unknown_options_are_refused() -> None:
    config = FinetuneConfig(method_options={"epsilon": 1})
    with pytest.raises(UsageError, match="epsilon"):
        check_training(finetune_settings(bundle(), config), 32)


def test_blocks_that_may_have_been_learnt_from_are_reported(
    slides: tuple[TrainingSlide, ...],
) -> None:
    alone = [replace(slide, split="train") for slide in slides]
    metas = [PatchStore(slide.store).meta for slide in alone]
    parent = bundle(dataset_fingerprint=dataset_fingerprint(metas), training={"seed": 3})
    assert _block_notes(alone, parent, 3) == ()
    assert "too good" in _block_notes(alone, parent, 4)[0]
    assert "too good" in _block_notes(alone[1:], parent, 3)[0]
    assert "too good" in _block_notes(alone, bundle(training={"seed": 3}), 3)[0]
    validated = [*alone[1:], replace(alone[0], split="val")]
    assert _block_notes(validated, parent, 4) == ()
