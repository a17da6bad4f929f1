"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stopping import InterruptedTestError, files, stop_after

from pathology_scaat.errors import TrainingError
from pathology_scaat.saliency import ExplainConfig, SaliencyStore, explain_slide
from pathology_scaat.saliency.arithmetic import ready_to_explain
from pathology_scaat.saliency.batch_explainer import BatchExplainer
from pathology_scaat.scaat import METHODS, SCAAT, make_method
from pathology_scaat.scaat.method import Visit
from pathology_scaat.training import TrainConfig, TrainingSlide, load_bundle, train_model
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.small_cnn import SmallNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

Slides = tuple[TrainingSlide, ...]
EPS = 16 / 255


def small_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return SmallNet(2, widths=(8, 16)).eval()


def batch(n: int = 32, side_px: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, side_px, side_px, generator=generator), torch.arange(n) % 2


def test_perturbed_images_are_those_of_the_cpu() -> None:
    images, labels = batch()
    here, there = small_net(), small_net().cuda()
    options = {"eps": EPS, "random_start": "none"}
    expected = SCAAT(here, **options).perturb(images, labels)
    found = SCAAT(there, **options).perturb(images.cuda(), labels.cuda()).cpu()
    # gradients near zero may change their sign between devices, and their rank near the median
    assert ((found - expected).abs() < 1e-3).float().mean() > 0.99
    assert (found - images).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_mixed_precision_perturbs_in_float32(gamma: float) -> None:
    images, labels = (t.cuda() for t in batch())
    method = SCAAT(small_net().cuda(), eps=EPS, gamma=gamma, autocast_dtype=torch.bfloat16)
    found = method.perturb(images, labels)
    assert found.dtype == torch.float32
    same = (found == images).all(dim=1).float().mean()
    assert 0.49 < same < 0.52  # the salient half is untouched to the last bit
    assert (found - images).abs().max() <= EPS + 1e-6
    assert (found != found.bfloat16().float()).any()


@pytest.mark.parametrize("name", METHODS.names)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_each_method_steps_and_learns(name: str, dtype: torch.dtype | None) -> None:
    images, labels = batch()
    images[labels == 1, :, 20:40, 20:40] *= 0.2
    images, labels = images.cuda(), labels.cuda()
    model = small_net().cuda().train()
    method = make_method(name, model, autocast_dtype=dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    visit = Visit(torch.arange(32), torch.zeros(32, dtype=torch.int64))
    losses = []
    for _ in range(40):
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(method.training_step(images, labels, visit=visit).total))
        optimizer.step()
        method.after_update()
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("backbone", ["scaat-small", "resnet18"])
def test_same_seed_same_bytes_and_resume_is_exact(
    slides: Slides, tmp_path: Path, quick: TrainConfig, backbone: str
) -> None:
    options = quick.backbone_options if backbone == "scaat-small" else {}
    config = quick.model_copy(update={"backbone": backbone, "backbone_options": options})
    whole = train_model(slides, tmp_path / "whole" / "model", config, device="cuda", seed=3)
    again = tmp_path / "again" / "model"
    with pytest.raises(InterruptedTestError):
        train_model(slides, again, config, device="cuda", seed=3, progress=stop_after(2))
    resumed = train_model(slides, again, config, device="cuda", seed=3)
    assert files(resumed.bundle_path) == files(whole.bundle_path)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"method": "scaat-amortised"}])
def test_trained_on_the_gpu_used_on_the_cpu(
    slides: Slides, tmp_path: Path, quick: TrainConfig, settings: dict[str, str]
) -> None:
    config = quick.model_copy(update={**settings, "epochs": 10})
    result = train_model(slides, tmp_path / "model", config, device="cuda")
    assert result.metrics["val_auc"] > 0.95
    maps, probability = {}, {}
    for device in ("cpu", "cuda"):
        explained = explain_slide(
            slides[3].store, result.bundle_path, tmp_path / device / "d.zarr", device=device
        )
        store = SaliencyStore(explained.path)
        maps[device] = store.read_saliency(np.arange(len(store)))
        probability[device] = store.target_probability
    assert np.abs(probability["cpu"] - probability["cuda"]).max() < 0.01
    flat = [maps[device].reshape(-1) for device in ("cpu", "cuda")]
    assert np.corrcoef(*flat)[0, 1] > 0.999


def test_short_memory_in_training_is_one_sentence(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.raises(TrainingError, match="too little memory free for batches of 16 patches"):
            train_model(slides, tmp_path / "model", quick, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not (tmp_path / "model").exists()


def test_short_memory_halves_the_batch(
    slides: Slides, tmp_path: Path, quick: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    result = train_model(slides, tmp_path / "model", quick, device="cpu")
    model = load_bundle(result.bundle_path, device="cuda").model
    patches = np.random.default_rng(0).integers(0, 255, (64, 512, 512, 3), dtype=np.uint8)
    explain = BatchExplainer(model, 1, ExplainConfig(), torch.device("cuda"))
    whole = explain(patches[:8])
    used = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5 * used / total))
    try:
        maps, probability = explain(patches)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "GPU memory is short" in caplog.text
    assert explain.at_once is not None
    assert 8 <= explain.at_once < 64
    assert maps.shape[0] == probability.shape[0] == 64
    np.testing.assert_allclose(probability[:8], whole[1], atol=1e-3)


def test_a_compiled_network_explains_as_the_plain_one(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    network = create_backbone("resnet18", 2, 64, {})
    model = Classifier(network, (0.7, 0.5, 0.6), (0.2, 0.2, 0.2)).cuda().eval()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    found = []
    for compile_for in (0, 16):
        ready = ready_to_explain(model, 64, "float32", compile_for)
        config = ExplainConfig(compile=compile_for > 0, batch_size=16)
        explainer = BatchExplainer(ready, 1, config, torch.device("cuda"))
        parts = [explainer(pixels[k : k + 16], k) for k in (0, 16)]
        found.append([np.concatenate(same) for same in zip(*parts, strict=True)])
    assert "Not compiled" not in caplog.text
    for before, after in zip(*found, strict=True):
        assert before.shape == after.shape
        assert np.abs(before - after).max() < 0.02 * np.abs(before).max()
