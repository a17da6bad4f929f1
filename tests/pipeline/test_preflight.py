"""What does not fit a model, or cannot be trained, is found before anything is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pathology_scaat.errors import ScaatError, TrainingError, UsageError
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
from pathology_scaat.training.backbones import create_backbone
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
        ({"method_options": {"eps": "16/255"}}, "eps: '16/255' is no number"),
        ({"method_options": {"seed": 1}}, "unknown: seed"),
        ({"method": "gradient-penalty", "method_options": {"eps": 0.1}}, "known: lam, norm, start"),
        ({"method_options": {"start": 1.0}}, "'scaat' nothing to do"),
        ({"method_options": {"lam": 0}}, "'scaat' nothing to do"),
        ({"method": "pgd", "method_options": {"eps": 0}}, "'pgd' nothing to do"),
        ({"backbone": "resnet18", "method_options": {"layer": "layer9"}}, "no 'layer9'.*'layer4'"),
        ({"backbone": "resnet18", "method_options": {"layer": "fc"}}, "gives no map .* no tokens"),
        ({"backbone": "vgg11", "method_options": {"grid": "network"}}, "no grid but the pixels"),
    ],
)
def test_trainings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ScaatError, match=words):
        check_training(TrainConfig.model_validate(settings))


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_weights_of_another_network_are_told_before_the_first_slide(
    trainable: str, tmp_path: Path
) -> None:
    state = create_backbone("resnet18", 7, 64).state_dict()
    torch.save(state, tmp_path / "right.pt")
    torch.save({f"_{k}": v for k, v in state.items()}, tmp_path / "renamed.pt")
    torch.save({k: v for k, v in state.items() if "layer4" in k}, tmp_path / "part.pt")
    (tmp_path / "text.pt").write_text("no weights")

    def settings(name: str) -> TrainConfig:
        return TrainConfig(
            backbone="resnet18", method="plain", trainable=trainable,
            backbone_weights=tmp_path / name,
        )  # fmt: skip

    check_training(settings("right.pt"))
    with pytest.raises(TrainingError, match="safely"):
        check_training(settings("text.pt"))
    with pytest.raises(TrainingError, match="names its tensors otherwise"):
        check_training(settings("renamed.pt"))
    if trainable == "head":
        with pytest.raises(TrainingError, match="which would stay random"):
            check_training(settings("part.pt"))
    else:
        check_training(settings("part.pt"))
    torch.save(create_backbone("resnet34", 2, 64).state_dict(), tmp_path / "other.pt")
    config = settings("other.pt").model_copy(update={"backbone": "resnet50"})
    with pytest.raises(TrainingError, match="fits only"):
        check_training(config)
    cohort = tmp_path / "cohort.csv"
    rows = [f"{n}.svs,p{n},{('a', 'b')[n % 2]}" for n in range(8)]
    cohort.write_text("\n".join(["slide_path,patient_id,label", *rows]) + "\n")
    for n in range(8):
        (tmp_path / f"{n}.svs").touch()  # opened, it would be refused
    done = subprocess.run(
        [sys.executable, "-m", "pathology_scaat", "run", "--manifest", str(cohort),
         "--out", str(tmp_path / "out"), "--backbone", "resnet50", "--weights",
         str(tmp_path / "other.pt")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "fits only" in " ".join(done.stderr.split())
    assert not list((tmp_path / "out").glob("patches/*"))


@pytest.mark.parametrize("backbone", ["scaat-small", "resnet18"])
@pytest.mark.parametrize("method", ["scaat", "plain", "trades", "background", "scaat-amortised"])
def test_trainings_that_can_be(backbone: str, method: str) -> None:
    check_training(TrainConfig(backbone=backbone, method=method))


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("resnet18", {"layer": "layer2"}),
        ("convnext_femto", {"layer": "stages.1"}),
        ("vit_tiny_patch16_224", {"layer": "blocks.1"}),
        ("scaat-small", {"layer": "blocks.1"}),
        ("vit_tiny_patch16_224", {"grid": "network", "gamma": 0.0}),
        ("resnet18", {"grid": "network"}),
        ("resnet18", {"saliency": "ema-teacher"}),
    ],
    ids=str,
)
def test_options_are_looked_at_with_the_network_they_are_for(
    backbone: str, options: dict[str, Any]
) -> None:
    """A layer is one of that network's: of another's it would be refused, or taken wrongly."""
    check_training(TrainConfig(backbone=backbone, method_options=options), 64)


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
