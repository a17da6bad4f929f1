"""Bags with an encoder that is not trained: features once, beside the patches, the same head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency import ExplainConfig, SaliencyStore, explain_slide
from pathology_scaat.training import TrainConfig, TrainingSlide, load_bundle
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.backbones import create_backbone
from pathology_scaat.training.bags import frozen, trainer
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.train import train_on_slides
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.heads.feature_files import read_feature_file


def test_features_are_computed_once_and_explained_to_the_pixels(
    bag_slides: tuple[TrainingSlide, ...],
    quick_bags: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = quick_bags.model_copy(
        update={"trainable": "head", "method": "plain", "epochs": 12, "learning_rate": 3e-2}
    )
    made = train_on_slides(
        bag_slides, tmp_path / "model", config, device="cpu", features_dir=tmp_path / "features"
    )
    assert made.metrics["val_slide_auc"] > 0.9
    assert any("features were computed once" in note for note in made.notes)
    bundle = load_bundle(made.bundle_path)
    model = bundle.model
    assert isinstance(model, BagModel)
    learnt_from = [s for s in bag_slides if s.split != "test"]
    assert len(list((tmp_path / "features").iterdir())) == len(bag_slides)  # of test slides too
    slide = learnt_from[-1]
    store = PatchStore(slide.store)
    kept = read_feature_file(tmp_path / "features" / f"{slide.slide_id}.h5", slide.slide_id)
    with torch.no_grad():
        features = model.encoder(to_float(torch.from_numpy(store.read(slice(None)))))
        logits = model.head(features)
    assert np.allclose(kept.read(), features.numpy(), atol=1e-5)
    assert kept.patch_size_level0_px == store.meta.grid.patch_size_level0_px
    assert kept.coords_px is not None
    assert not kept.painted
    assert np.array_equal(kept.coords_px, store.origins_px)
    explain_slide(slide.store, made.bundle_path, tmp_path / "s.zarr", ExplainConfig(), "cpu")
    contribution = SaliencyStore(tmp_path / "s.zarr").contribution
    assert contribution is not None
    assert np.allclose(contribution.sum(axis=0), logits.numpy(), atol=1e-3)

    # features that were kept before painted slides were recorded are written anew
    with monkeypatch.context() as painted:
        painted.setattr(frozen, "is_painted", lambda vendor: True)
        short = config.model_copy(update={"epochs": 1})
        train_on_slides(
            bag_slides, tmp_path / "p", short, device="cpu", features_dir=tmp_path / "features"
        )
    file = tmp_path / "features" / f"{slide.slide_id}.h5"
    assert read_feature_file(file, slide.slide_id).painted
    train_on_slides(
        bag_slides, tmp_path / "q", short, device="cpu", features_dir=tmp_path / "features"
    )
    assert not read_feature_file(file, slide.slide_id).painted

    def again(*_: object) -> None:
        raise AssertionError("computed anew")

    monkeypatch.setattr(frozen.FrozenBagTrainer, "_encoded", again)
    other = config.model_copy(update={"epochs": 2})
    train_on_slides(
        bag_slides, tmp_path / "other", other, device="cpu", features_dir=tmp_path / "features"
    )


def n_by_channel(model: torch.nn.Module) -> int:
    """Convolutions whose weights lie in memory channel by channel, as is fast on processors."""
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    return sum(
        m.weight.is_contiguous(memory_format=torch.channels_last) and not m.weight.is_contiguous()
        for m in convolutions
    )


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_encoders_lie_in_memory_as_convolutions_like_it_in_training_and_where_bundles_are_used(
    bag_slides: tuple[TrainingSlide, ...],
    quick_bags: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainable: str,
) -> None:
    seen = {}
    encoder_of = trainer.with_head

    def noted(encoder: torch.nn.Module, *rest: object) -> BagModel:
        seen[config.channels_last] = n_by_channel(encoder)
        return encoder_of(encoder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "with_head", noted)
    logits = []
    for channels_last in (True, False):
        config = quick_bags.model_copy(
            update={"trainable": trainable, "method": "plain", "epochs": 1,
                    "channels_last": channels_last}
        )  # fmt: skip
        folder = tmp_path / str(channels_last)
        made = train_on_slides(bag_slides, folder, config, device="cpu")
        assert not any("without effect" in note for note in made.notes)
        model = load_bundle(made.bundle_path).model
        assert n_by_channel(model) > 2
        patches = torch.from_numpy(PatchStore(bag_slides[0].store).read(slice(None)))
        logits.append(model.head(model.encoder(to_float(patches))).detach().numpy())
    assert seen[True] > 2
    assert seen[False] == 0
    assert np.allclose(*logits, atol=1e-2)  # rounding alone


CONVOLUTIONS = ("scaat-small", {"widths": (8, 16, 16)})  # positions of 4 and of 8 px
TOKENS = (
    "vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
)  # fmt: skip


@pytest.mark.parametrize(
    ("network_and_options", "given", "method"),
    [
        (CONVOLUTIONS, True, "fused-cam"),
        (CONVOLUTIONS, False, "gradient"),
        (TOKENS, True, "gradient"),  # class activation of tokens was not measured there
    ],
)
def test_maps_of_given_weights_are_class_activation_and_others_the_gradients(
    bag_slides: tuple[TrainingSlide, ...], quick_bags: TrainConfig, tmp_path: Path,
    network_and_options: tuple[str, dict[str, Any]], given: bool, method: str,
) -> None:  # fmt: skip
    name, options = network_and_options
    torch.manual_seed(5)
    network = create_backbone(name, 2, 32, options)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    config = quick_bags.model_copy(
        update={
            "trainable": "head", "method": "plain", "epochs": 2, "backbone": name,
            "backbone_options": options,
            "backbone_weights": tmp_path / "w.safetensors" if given else None,
        }
    )  # fmt: skip
    made = train_on_slides(bag_slides, tmp_path / "model", config, device="cpu")
    model_config = read_bundle_config(made.bundle_path)
    assert model_config.reference_settings is not None
    assert model_config.reference_settings.method == method
    slide = next(s for s in bag_slides if s.split == "val")
    explain_slide(slide.store, made.bundle_path, tmp_path / "s.zarr", ExplainConfig(), "cpu")
    store = SaliencyStore(tmp_path / "s.zarr")
    assert store.meta.method == method
    # the reference spans what explaining gives: it was measured on patches of such slides
    found = store.read_saliency(slice(None)) * store.target_probability[:, None, None]
    assert model_config.saliency_reference is not None
    span = model_config.saliency_reference[store.meta.target_class]
    assert 0.2 < np.quantile(found, 0.99) / span.p99 < 5
