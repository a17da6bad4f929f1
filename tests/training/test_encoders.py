"""Foundation encoders by name: the architecture is the published one; weights are the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.pipeline.preflight import check_training
from pathology_scaat.training import TrainConfig
from pathology_scaat.training import encoders as registry
from pathology_scaat.training.backbones import (
    create_backbone,
    load_backbone_weights,
    normalisation_of,
)
from pathology_scaat.training.builders import fill_backbone
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.encoders import ENCODERS, Encoder

# In millions, from papers, model pages and sizes of the published files (4 bytes a weight).
PUBLISHED = {
    "uni": 303, "uni2-h": 681, "virchow": 631, "virchow2": 631, "h-optimus-0": 1135,
    "h-optimus-1": 1135, "gigapath": 1135, "phikon": 86, "phikon-v2": 303,
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=str)
def test_the_architecture_has_the_published_number_of_weights(encoder: Encoder) -> None:
    with torch.device("meta"):
        network = create_backbone(encoder.name, 0, encoder.input_px)
    count = sum(p.numel() for p in network.parameters())
    assert count == encoder.n_parameters
    assert round(count / 1e6) == PUBLISHED[encoder.name]
    assert normalisation_of("auto", network, True, None) == encoder.normalisation
    assert network.patch_embed.patch_size == (encoder.token_px,) * 2  # type: ignore[union-attr]
    with torch.device("meta"):
        assert create_backbone(encoder.name, 3, 2 * encoder.input_px).num_classes == 3


def test_patches_that_tokens_do_not_fill_are_refused_with_a_size_that_they_do() -> None:
    with pytest.raises(UsageError, match=r"14 px.*252 or 266"), torch.device("meta"):
        create_backbone("virchow2", 2, 256)


def test_an_encoder_is_never_random() -> None:
    with pytest.raises(UsageError, match="never downloaded"):
        check_training(TrainConfig(backbone="uni"), 224)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """A small network under the name of an encoder."""
    encoder = Encoder(
        "tiny", "Tiny", "vit_tiny_patch16_224", ((0.7, 0.6, 0.7), (0.2, 0.2, 0.2)), 32, 16, 0,
        "MIT", "nobody/tiny", {"embed_dim": 48, "depth": 2, "num_heads": 3}, "it is tiny",
    )  # fmt: skip
    monkeypatch.setitem(registry.ENCODERS, "tiny", encoder)
    return encoder


def test_weights_terms_and_normalisation_of_an_encoder(tiny: Encoder, tmp_path: Path) -> None:
    source = create_backbone("tiny", 0, 32)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    config = TrainConfig(backbone="tiny", backbone_weights=tmp_path / "w.safetensors")
    network = create_backbone("tiny", 2, 32)
    notes = fill_backbone(network, config)
    assert torch.equal(network.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)  # type: ignore
    assert any("MIT" in note for note in notes)
    assert any("it is tiny" in note for note in notes)
    bundle = BundleConfig(
        class_names=("a", "b"), positive_class="b", patch_size_px=32, mpp=0.5, backbone="tiny",
        mean=(0.7, 0.6, 0.7), std=(0.2, 0.2, 0.2),
    )  # fmt: skip
    assert "MIT" in bundle.terms
    assert bundle.model_copy(update={"backbone": "resnet18"}).terms == ""


def test_an_encoder_is_filled_wholly_or_not_at_all(tiny: Encoder, tmp_path: Path) -> None:
    state = create_backbone("tiny", 0, 32).state_dict()
    state.pop("blocks.1.mlp.fc1.bias")
    save_file(state, tmp_path / "w.safetensors")
    network = create_backbone("tiny", 2, 32)
    with pytest.raises(TrainingError, match="would stay random"):
        load_backbone_weights(network, tmp_path / "w.safetensors", whole=True)
    load_backbone_weights(network, tmp_path / "w.safetensors")  # where all is trained


@pytest.mark.parametrize("prefix", ["teacher.backbone.", "model.", "module.encoder."])
def test_weights_are_found_under_any_prefix(tiny: Encoder, tmp_path: Path, prefix: str) -> None:
    source = create_backbone("tiny", 0, 32)
    state = {f"{prefix}{k}": v.clone() for k, v in source.state_dict().items()}
    if prefix.startswith("teacher"):
        state |= {k.replace("teacher", "student"): v + 1 for k, v in state.items()}
    save_file(state, tmp_path / "w.safetensors")
    network = create_backbone("tiny", 2, 32)
    load_backbone_weights(network, tmp_path / "w.safetensors", whole=True)
    assert torch.equal(network.norm.weight, source.norm.weight)  # type: ignore[union-attr]
