"""What does not fit a model, or cannot be trained, is found before anything is made."""

from __future__ import annotations

from typing import Any

import pytest

from pathology_scaat.errors import ScaatError, UsageError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import TileConfig
from pathology_scaat.pipeline.preflight import (
    check_device,
    check_training,
    refuse_unused_options,
    spelled_target,
    unused_settings,
)
from pathology_scaat.saliency import ExplainConfig
from pathology_scaat.training import TrainConfig
from pathology_scaat.training.bundle_config import BundleConfig

MODEL = BundleConfig(
    class_names=("Normal", "Tumor"),
    positive_class="Tumor",
    patch_size_px=128,
    mpp=1.0,
    backbone="scaat-small",
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "resnet5000"}, "unknown"),
        ({"backbone": "resnet18", "backbone_options": {"nope": 1}}, "nope|cannot be made"),
        ({"backbone_weights": "none.safetensors"}, "is no file"),
        ({"method_options": {"epsilon": 1}}, "epsilon"),
        ({"method_options": {"eps": 7}}, "eps"),
    ],
)
def test_trainings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ScaatError, match=words):
        check_training(TrainConfig.model_validate(settings))


@pytest.mark.parametrize("backbone", ["scaat-small", "resnet18"])
@pytest.mark.parametrize("method", ["scaat", "plain", "trades", "background", "scaat-amortised"])
def test_trainings_that_can_be(backbone: str, method: str) -> None:
    check_training(TrainConfig(backbone=backbone, method=method))


def test_only_what_contradicts_the_model_is_refused() -> None:
    refuse_unused_options(
        {"--mpp": 1.0, "--patch-size": 128, "--classes": ["normal", "tumor"], "--epochs": None},
        MODEL,
    )
    with pytest.raises(UsageError) as refused:
        refuse_unused_options({"--mpp": 4.0, "--patch-size": 64, "--method": "plain"}, MODEL)
    assert refused.value.subject == (
        "--mpp (the model's: 1 µm/px), --patch-size (the model's: 128 px), --method"
    )


def test_settings_of_a_file_that_a_model_overrides_are_reported() -> None:
    notes = unused_settings(TileConfig(mpp=2.0), TrainConfig(epochs=3), MODEL)
    assert notes == ["settings not used, because a model is given: 'tile.mpp', 'train.epochs'"]
    assert unused_settings(TileConfig(mpp=1.0), TrainConfig(), MODEL) == []
    jpeg = TileConfig(mpp=1.0, pixels="slide-jpeg")
    assert unused_settings(jpeg, TrainConfig(), MODEL) == []
    told = unused_settings(jpeg, TrainConfig(), MODEL, keeps_pixels=False)
    assert told == ["settings not used, because a model is given: 'tile.pixels'"]


def test_a_target_is_matched_by_name() -> None:
    names = MODEL.class_names
    assert spelled_target(ExplainConfig(target="tumor"), names).target == "Tumor"
    assert spelled_target(ExplainConfig(), names).target is None
    with pytest.raises(UsageError, match="did you mean 'Tumor'"):
        spelled_target(ExplainConfig(target="Tumour"), names)


def test_a_cluster_may_have_devices_that_are_not_here() -> None:
    check_device("cuda:77", EngineConfig(scheduler="tls://host:8786"))
    with pytest.raises(UsageError, match="--device"):
        check_device("cuda:77", EngineConfig())
    with pytest.raises(UsageError, match="is not a device"):
        check_device("quantum", EngineConfig(scheduler="tls://host:8786"))
