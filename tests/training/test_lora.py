"""Low-rank adaptation: what is trained, what is saved, and going on after a stop."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stopping import InterruptedTestError, stop_after
from torch import nn

from pathology_scaat.errors import UsageError
from pathology_scaat.training import TrainConfig, TrainingSlide, load_bundle, train_model
from pathology_scaat.training.backbones import create_backbone, set_trainable
from pathology_scaat.training.lora import merge_lora, require_lora

# Not imported here: it takes seconds, in the process that needs it.
pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is not installed")
Slides = tuple[TrainingSlide, ...]
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = VIT if "vit" in name else {}
    return create_backbone(name, 2, 32, options).eval()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "scaat-small"])
def test_adapters_change_nothing_at_first_and_are_merged_exactly(name: str) -> None:
    plain, adapted = network(name), network(name)
    set_trainable(adapted, "lora-4")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(adapted(x), plain(x))
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    head = set(plain.get_classifier().state_dict())  # type: ignore[operator]
    assert trained
    assert all(".lora_" in n or n.rpartition(".")[2] in head for n in trained)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        moved = adapted.eval()(x)
        assert not torch.allclose(moved, plain(x), atol=1e-3)
        assert merge_lora(adapted) > 0
        torch.testing.assert_close(adapted(x), moved, rtol=1e-4, atol=1e-5)
    assert set(adapted.state_dict()) == set(plain.state_dict())
    assert merge_lora(adapted) == 0


@pytest.fixture
def config(quick: TrainConfig, tmp_path: Path) -> TrainConfig:
    source = network("vit_tiny_patch16_224")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    return quick.model_copy(
        update={
            "backbone": "vit_tiny_patch16_224", "backbone_options": VIT, "trainable": "lora",
            "backbone_weights": tmp_path / "w.safetensors", "epochs": 3,
        }
    )  # fmt: skip


def test_a_bundle_of_adapted_weights_needs_no_adapters(
    slides: Slides, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained with SCAAT, measured after the merge, loaded where the library is missing."""
    result = train_model(slides, tmp_path / "model", config, device="cpu")
    assert result.metrics["val_auc"] > 0.5
    monkeypatch.setitem(sys.modules, "peft", None)
    bundle = load_bundle(tmp_path / "model")
    assert not any("lora" in key for key in bundle.model.state_dict())
    source = network("vit_tiny_patch16_224").state_dict()
    own = {k.removeprefix("backbone."): v for k, v in bundle.model.state_dict().items()}
    assert torch.equal(own["norm.weight"], source["norm.weight"])  # frozen
    assert not torch.equal(own["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"])
    assert bundle.config.method == "scaat"


def test_a_stopped_adaptation_goes_on_to_the_same_weights(
    slides: Slides, config: TrainConfig, tmp_path: Path
) -> None:
    whole = train_model(slides, tmp_path / "whole", config, device="cpu")
    with pytest.raises(InterruptedTestError):
        train_model(slides, tmp_path / "parts", config, device="cpu", progress=stop_after(1))
    parts = train_model(slides, tmp_path / "parts", config, device="cpu")
    assert parts.model_fingerprint == whole.model_fingerprint


def test_without_the_library_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathology_scaat.training.lora.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="peft"):
        require_lora("lora-8")
    require_lora("head")
    with pytest.raises(UsageError, match="trains nothing"):
        require_lora("lora-0")
