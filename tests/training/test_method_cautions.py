"""What is known of SCAAT is said of the network that is trained, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathology_scaat.training import TrainConfig
from pathology_scaat.training.method_cautions import method_caution


@pytest.mark.parametrize(
    ("settings", "by_slide", "said"),
    [
        ({}, False, "surely worse than after plain training"),
        ({"backbone": "resnet18"}, False, "three sets of four"),
        ({"backbone": "resnet50"}, False, "it was not measured"),
        ({"backbone": "vit_tiny_patch16_224"}, False, "one small transformer"),
        ({"backbone_weights": Path("w.safetensors")}, False, "one pretrained network"),
        ({"method": "scaat-amortised"}, False, "this variant of it was not measured"),
        ({}, True, "a hundredth of pixel AP"),
        ({"backbone": "resnet18"}, True, "it was not measured"),
        ({"backbone_weights": Path("w.safetensors")}, True, "a gain over plain training was not"),
    ],
)
def test_of_each_kind_of_training(settings: dict[str, object], by_slide: bool, said: str) -> None:
    assert said in method_caution(TrainConfig(**settings), by_slide)


@pytest.mark.parametrize("method", ["plain", "sgt", "fgsm", "pgd"])
def test_of_other_methods_nothing_is_said(method: str) -> None:
    assert method_caution(TrainConfig(method=method), by_slide=False) == ""


def test_a_model_that_began_with_other_weights_is_a_pretrained_one() -> None:
    assert "one pretrained network" in method_caution(TrainConfig(), False, pretrained=True)
