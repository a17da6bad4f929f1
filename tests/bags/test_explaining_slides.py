"""A slide is explained exactly, batch by batch, and its contributions add up to its logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pathology_scaat.errors import UsageError
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency import ExplainConfig, SaliencyStore, explain_slide
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.saliency.bags import BagExplainer
from pathology_scaat.scaat.target import target_score
from pathology_scaat.training import BundleConfig, TrainingSlide, load_bundle, save_bundle
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags import POOLINGS, BagHeadConfig
from pathology_scaat.training.bags.model import BagModel, build_bag_model, tall_image

SIDE = 32


def random_model(
    pooling: str = "gated", n_classes: int = 2, widths: tuple[int, ...] = (8, 16)
) -> tuple[BagModel, BundleConfig]:
    torch.manual_seed(5)
    head = BagHeadConfig(pooling=pooling, attention_width=8)
    options = {"widths": widths}
    mean, std = (0.8, 0.6, 0.7), (0.2, 0.2, 0.2)
    model = build_bag_model("scaat-small", options, SIDE, n_classes, head, mean, std).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    config = BundleConfig(
        class_names=("normal", "tumour", "other")[:n_classes], positive_class="tumour",
        patch_size_px=SIDE, mpp=0.5, backbone="scaat-small", backbone_options=options, mean=mean,
        std=std, bag=head, temperature=1.5,
    )  # fmt: skip
    return model, config


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_two_passes_give_the_gradient_of_the_slide(pooling: str, n_classes: int) -> None:
    model, _ = random_model(pooling, n_classes)
    rng = np.random.default_rng(1)
    patches = rng.integers(0, 256, (17, SIDE, SIDE, 3), dtype=np.uint8)
    explain = BagExplainer(model, 1, ExplainConfig(stride_px=1), torch.device("cpu"), 1.5)
    batches = [patches[i : i + 5] for i in range(0, 17, 5)]
    (contribution,) = explain.look(batches).values()
    maps = np.concatenate([explain(b, 5 * k)[0] for k, b in enumerate(batches)])
    images = to_float(torch.from_numpy(patches)).requires_grad_(True)
    logits = model(tall_image(images, 1))
    score = target_score(logits, torch.tensor([1]), "margin").sum()
    (gradient,) = torch.autograd.grad(score, [images])
    whole = gradient.abs().sum(dim=1).numpy() * len(patches)
    assert np.abs(maps - whole).max() <= 1e-5 * whole.max()
    assert np.allclose(contribution.sum(axis=0), logits.detach().numpy()[0], atol=1e-5)


FOR_TRANSFORMERS = {"attn-lrp", "token-gradient-x-input", "attention-rollout", "token-cam"}
"""Methods that refuse a convolutional network by name; a test of theirs has a transformer."""


@pytest.mark.parametrize("method", sorted(set(ATTRIBUTIONS.names) - FOR_TRANSFORMERS))
def test_every_method_explains_the_right_patch(method: str) -> None:
    """In batches of 3 or of 9: each patch is multiplied by its own slope."""
    # positions of 4 and 8 px, for the method that needs two such resolutions
    model, _ = random_model(widths=(8, 16, 16) if method == "fused-cam" else (8, 16))
    patches = np.random.default_rng(2).integers(0, 256, (9, SIDE, SIDE, 3), dtype=np.uint8)
    config = ExplainConfig(method=method, n_samples=3, stride_px=4)
    found = []
    for size in (3, 9):
        explain = BagExplainer(model, 1, config, torch.device("cpu"))
        batches = [patches[i : i + size] for i in range(0, 9, size)]
        explain.look(batches)
        found.append(np.concatenate([explain(b, size * k)[0] for k, b in enumerate(batches)]))
    assert found[0].shape == (9, SIDE // 4, SIDE // 4)
    assert np.isfinite(found[0]).all()
    assert np.allclose(found[0], found[1], rtol=1e-4, atol=1e-5 * found[1].max())


@pytest.mark.parametrize("method", sorted(FOR_TRANSFORMERS))
def test_a_method_for_transformers_refuses_another_network(method: str) -> None:
    model, _ = random_model()
    patches = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    explain = BagExplainer(model, 1, ExplainConfig(method=method), torch.device("cpu"))
    explain.look([patches])
    with pytest.raises(UsageError):
        explain(patches, 0)


def test_memory_is_that_of_a_batch() -> None:
    """No graph of the slide is kept: of the first pass stays one vector a patch."""
    model, _ = random_model()
    seen: list[tuple[bool, int]] = []
    model.encoder.register_forward_hook(
        lambda module, inputs, output: seen.append((output.requires_grad, len(output)))
    )
    patches = np.zeros((40, SIDE, SIDE, 3), np.uint8)
    batches = [patches[i : i + 8] for i in range(0, 40, 8)]
    explain = BagExplainer(model, 1, ExplainConfig(), torch.device("cpu"))
    explain.look(batches)
    assert seen == [(False, 8)] * 5
    seen.clear()
    for number, batch in enumerate(batches):
        explain(batch, 8 * number)
    assert seen == [(True, 8)] * 5


def test_a_store_holds_what_the_slide_s_prediction_is_made_of(
    bag_slides: tuple[TrainingSlide, ...], tmp_path: Path
) -> None:
    model, config = random_model()
    save_bundle(tmp_path / "model", model, config, wsinfer=False)
    bundle = load_bundle(tmp_path / "model")
    slide = bag_slides[0]
    out = tmp_path / f"{slide.slide_id}.zarr"
    small = ExplainConfig(batch_size=7)
    result = explain_slide(slide.store, tmp_path / "model", out, small, device="cpu")
    store = SaliencyStore(out)
    images = to_float(torch.from_numpy(PatchStore(slide.store).read(slice(None))))
    logits = bundle.model(tall_image(images, 1))[0].numpy()
    assert store.contribution is not None
    assert np.allclose(store.contribution.sum(axis=0), logits, atol=1e-5)
    assert "number of its patches" in store.meta.parameters["unit"]
    assert np.allclose(store.probability.sum(axis=1), 1, atol=1e-6)
    # what all patches say together is what the slide is given
    margin = len(store) * np.diff(store.contribution, axis=1)[:, 0] / 1.5
    assert np.allclose(store.probability[:, 1], 1 / (1 + np.exp(-margin)), atol=1e-5)
    assert result.n_patches == len(store)
    again = explain_slide(slide.store, tmp_path / "model", out, small, device="cpu")
    assert again.skipped
