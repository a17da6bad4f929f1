"""Class activation of several layers: which layers, and what the map is."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.scaat.fused_cam import FLOOR, fused_cam, fused_layers
from pathology_scaat.scaat.gradients import class_activation_map, layer_class_activation
from pathology_scaat.training.small_cnn import SmallNet

CPU = torch.device("cpu")


def names(model: nn.Module, side: int) -> list[str]:
    known = {id(module): name for name, module in model.named_modules()}
    return [known[id(layer)] for layer in fused_layers(model.eval(), (3, side, side), CPU)]


@pytest.mark.parametrize(
    ("network", "side", "wanted"),
    [
        ("resnet18", 96, ["layer4", "layer3", "layer2", "layer1"]),
        ("resnet50", 96, ["layer4", "layer3", "layer2", "layer1"]),
        ("convnext_atto", 96, ["stages", "stages.2", "stages.1", "stages.0"]),
        # the blocks of these end without an activation function: what follows has one
        ("tf_efficientnet_lite0", 96, ["bn2", *(f"blocks.{k}.0.bn1.act" for k in (5, 3, 2))]),
        ("densenet121", 96, ["features", *(f"features.transition{k}.norm.act" for k in (3, 2, 1))]),
        ("swin_tiny_patch4_window7_224", 224, ["norm", "layers.2", "layers.1", "layers.0"]),
    ],
)
def test_a_layer_of_each_resolution_down_to_4_px(
    network: str, side: int, wanted: list[str]
) -> None:
    torch.manual_seed(0)
    assert names(timm.create_model(network, pretrained=False, num_classes=2), side) == wanted


def test_positions_finer_than_4_px_are_left_out_and_the_choice_stays() -> None:
    torch.manual_seed(0)
    model = SmallNet(2)  # positions of 2, 4, 8 and 16 px
    assert names(model, 64) == ["blocks", "blocks.1", "blocks.0"]
    with torch.no_grad():
        model.head.weight.normal_()
    assert names(model, 64) == names(model.train(), 64)


class TwoLayers(nn.Module):
    """Positions of 4 and 8 px whose values are the image's means, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.AvgPool2d(4), nn.AvgPool2d(2)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.coarse(self.fine(images)).mean((2, 3)))


def test_it_is_the_geometric_mean_of_the_layers_maps() -> None:
    torch.manual_seed(1)
    model, images = TwoLayers(), torch.rand(3, 3, 16, 16)
    found = attribution(model, images, 1, "fused-cam")
    weights = (model.head.weight[1] - model.head.weight[0]).detach()[None, :, None, None]
    fine, coarse = model.fine(images), model.coarse(model.fine(images))
    # by hand: every position of the coarse layer has a quarter of the weights' slope
    one = class_activation_map(coarse, (weights / 4).expand_as(coarse), (16, 16))
    two = layer_class_activation(fine, (weights / 16).expand_as(fine), (16, 16))
    one, two = (m + FLOOR * m.mean((1, 2), keepdim=True) for m in (one, two))
    torch.testing.assert_close(found, (one * two).sqrt())


def test_the_unit_is_the_scores() -> None:
    torch.manual_seed(2)
    model, images = TwoLayers(), torch.rand(2, 3, 16, 16)
    layers = fused_layers(model, (3, 16, 16), CPU)
    once, _ = fused_cam(model, images, lambda z: z[:, 1] - z[:, 0], layers)
    thrice, _ = fused_cam(model, images, lambda z: 3 * (z[:, 1] - z[:, 0]), layers)
    torch.testing.assert_close(thrice, 3 * once)


def test_where_nothing_speaks_for_the_class_there_is_nothing() -> None:
    torch.manual_seed(3)
    model, images = TwoLayers(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0] * 3, [-1.0] * 3]))
    assert not attribution(model, images, 1, "fused-cam").any()
    assert bool((attribution(model, images, 0, "fused-cam") > 0).all())


def test_each_class_has_its_own_map_and_an_image_leaves_its_neighbours_alone() -> None:
    torch.manual_seed(4)
    model, images = SmallNet(2).eval(), torch.rand(3, 3, 64, 64)
    tumour, normal = (attribution(model, images, k, "fused-cam") for k in (1, 0))
    assert not torch.allclose(tumour, normal)
    alone = attribution(model, images[1:2], 1, "fused-cam")
    torch.testing.assert_close(alone, tumour[1:2])


@pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fused-cam", "grad-cam"])
def test_a_program_that_cannot_be_looked_into_is_refused(method: str) -> None:
    script = torch.jit.trace(SmallNet(2).eval(), torch.rand(1, 3, 64, 64))
    model = nn.Sequential(script)
    with pytest.raises(UsageError, match=r"finds (0|no)"):
        attribution(model, torch.rand(1, 3, 64, 64), 1, method)
