"""The small network treats all borders and all pixels alike, and old weights still load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.bundle import load_bundle, save_bundle
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.small_cnn import EdgeRepeatingConv2d, SmallNet, repeat_border

SIDE = 64


def settled(net: SmallNet, images: Tensor) -> Classifier:
    model = Classifier(net, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).train()
    with torch.no_grad():
        for _ in range(3):
            model(images)  # running statistics other than 0 and 1
    return model.eval()


def mean_saliency(downsampling: str) -> Tensor:
    """Saliency averaged over images and networks: what remains is the network's own pattern."""
    total = torch.zeros(SIDE, SIDE)
    for seed in range(4):
        torch.manual_seed(seed)
        images = F.interpolate(torch.rand(48, 3, SIDE // 4, SIDE // 4), SIDE, mode="bilinear")
        model = settled(SmallNet(2, downsampling=downsampling), images)
        total += attribution(model, images, 1).mean(dim=0)
    return total / total[16:-16, 16:-16].mean()


def borders(pattern: Tensor) -> list[float]:
    middle = slice(16, -16)
    sides = (pattern[:8, middle], pattern[-8:, middle], pattern[middle, :8], pattern[middle, -8:])
    return [float(side.mean()) for side in sides]


def test_saliency_fades_at_no_border_more_than_at_another() -> None:
    found = borders(mean_saliency("even"))
    assert min(found) > 0.7
    assert max(found) / min(found) < 1.15
    before = borders(mean_saliency("odd"))
    assert max(before) / min(before) > 1.4  # what it was: right and bottom in the dark


def test_a_shift_by_one_pixel_changes_no_pattern() -> None:
    """Means over the places of the stride: no checkerboard of even and odd pixels."""

    def unevenness(downsampling: str) -> float:
        pattern = mean_saliency(downsampling)[16:-16, 16:-16]
        by_position = pattern.reshape(16, 2, 16, 2).mean(dim=(0, 2))
        return float(by_position.std() / by_position.mean())

    assert unevenness("even") < 0.06
    assert unevenness("odd") > 3 * unevenness("even")


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirrored_network_sees_mirrored_images_alike(axis: int) -> None:
    """Mirrored kernels on a mirrored image: the same logits, which padding must not break."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, SIDE, SIDE)
    model = settled(SmallNet(2), images)
    with torch.no_grad():
        expected = model(images)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_(module.weight.flip(axis))
        torch.testing.assert_close(model(images.flip(axis)), expected, rtol=1e-4, atol=1e-5)


def test_bundles_of_the_network_of_before_load_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old = Classifier(
        create_backbone("scaat-small", 2, 32, {"downsampling": "odd"}), (0.5,) * 3, (0.25,) * 3
    ).eval()
    config = BundleConfig(
        class_names=("a", "b"), positive_class="b", patch_size_px=32, mpp=0.5,
        backbone="scaat-small", mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip
    assert config.backbone_options == {}  # they did not know that there would be another
    save_bundle(tmp_path / "model", old, config, wsinfer=False)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_bundle(tmp_path / "model").model(images), old(images))


def test_a_repeated_border_is_torchs_own_and_so_is_its_gradient() -> None:
    images = torch.arange(2 * 3 * 5 * 4, dtype=torch.float64).reshape(2, 3, 5, 4)
    weights = torch.arange(2 * 3 * 7 * 6, dtype=torch.float64).reshape(2, 3, 7, 6)
    found, gradients = [], []
    for pad in (repeat_border, lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate")):
        given = images.clone().requires_grad_(True)
        padded = pad(given)
        found.append(padded.detach())
        gradients.append(torch.autograd.grad((padded * weights).sum(), given)[0])
    assert torch.equal(*found)
    assert torch.equal(*gradients)


def test_padded_by_itself_the_convolution_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    convolution = SmallNet(2).stem[0]
    assert isinstance(convolution, EdgeRepeatingConv2d)
    images = torch.rand(2, 3, 16, 16)
    expected = convolution(images)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert torch.equal(convolution(images), expected)
