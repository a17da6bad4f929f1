"""Relevance propagation against closed forms, conservation, and zennit where it can be asked."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.lrp import relevance
from pathology_scaat.scaat.target import evaluating


def signed(model: nn.Module, images: Tensor, *, target: int = 1, attention: bool = False) -> Tensor:
    classes = torch.full((len(images),), target)
    with evaluating(model):
        found, logits = relevance(model, images, classes, "logit", through_attention=attention)
        torch.testing.assert_close(logits, model(images))  # the rules change no value
    return found


def without_biases(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model.eval()


def positive_logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)[:, 1]


class Residual(nn.Module):
    """What hooks on modules do not see: a sum, functional activations, a functional mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.inside = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.first((images - 0.5) / 0.25))
        x = F.gelu(self.inside(x)) + x
        return self.head(x.mean((2, 3)))


def test_relevance_of_a_linear_model_is_the_box_rule() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3 * 4 * 4, 2, bias=False)
    images = torch.rand(5, 3, 4, 4)
    weight = layer.weight.detach()[1].reshape(3, 4, 4)
    # black and white are the bounds: x w - 0 w+ - 1 w-
    parts = images * weight - weight.clamp(max=0)
    score = (images * weight).sum((1, 2, 3))
    expected = parts / parts.sum((1, 2, 3), keepdim=True) * score[:, None, None, None]
    torch.testing.assert_close(signed(nn.Sequential(nn.Flatten(), layer), images), expected)


def test_relevance_is_conserved_through_sums_and_functional_activations() -> None:
    torch.manual_seed(1)
    model = without_biases(Residual())
    images = torch.rand(4, 3, 12, 12)
    found = signed(model, images)
    torch.testing.assert_close(
        found.sum((1, 2, 3)), positive_logits(model, images), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0", "convnext_atto"])
def test_relevance_is_conserved_in_networks_of_timm(name: str) -> None:
    torch.manual_seed(2)
    model = timm.create_model(name, num_classes=2)
    for module in model.modules():  # at the start some residual branches are multiplied by zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
    without_biases(model)
    images = torch.rand(2, 3, 64, 64)
    found = signed(model, images)
    torch.testing.assert_close(
        found.sum((1, 2, 3)), positive_logits(model, images), rtol=5e-3, atol=1e-5
    )


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(3)
    return VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=2
    )


def test_with_attention_held_fixed_relevance_is_conserved_in_a_transformer() -> None:
    model = without_biases(tiny_vit())
    model.pos_embed.data.zero_()  # type: ignore[union-attr]
    model.cls_token.data.zero_()  # type: ignore[union-attr]
    images = torch.rand(3, 3, 16, 16)
    found = signed(model, images)
    torch.testing.assert_close(
        found.sum((1, 2, 3)), positive_logits(model, images), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_explicit_attention_give_the_same_relevance(fused: bool) -> None:
    model = tiny_vit().eval()
    images = torch.rand(2, 3, 16, 16)
    expected = signed(model, images, attention=True)
    for block in model.blocks:
        block.attn.fused_attn = fused
    torch.testing.assert_close(signed(model, images, attention=True), expected)


class OneAttention(nn.Module):
    """Patches of 2 px to three positive features; one attention of them with themselves; a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 3, 2, 2, bias=False)
        self.cut.weight.data.uniform_(0.1, 1)
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data.uniform_(0.1, 1)

    def tokens(self, images: Tensor) -> Tensor:
        return self.cut(images).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        t = self.tokens(images)
        return self.head(F.scaled_dot_product_attention(t, t, t).mean(1))


def test_attention_aware_relevance_is_what_the_published_equations_say() -> None:
    torch.manual_seed(4)
    model = OneAttention()
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        t = model.tokens(images)[0]
    scale = 1 / math.sqrt(3)
    z = t @ t.T * scale
    a = z.softmax(1)
    # the sum over tokens: each output's share; all contributions are positive, so gamma is none
    per_output = model.head.weight.detach()[1] / len(t)  # R_o / o
    r_values = 0.5 * t * (a.sum(0)[:, None] * per_output)
    r_weights = 0.5 * a * (t * per_output).sum(1)
    r_logits = z * (r_weights - a * r_weights.sum(1, keepdim=True))
    shares = 0.5 * scale * (t[:, None, :] * t[None, :, :]) * (r_logits / z)[:, :, None]
    expected = (r_values + shares.sum(1) + shares.sum(0)).sum(1)
    # patches keep what their token has: the box rule conserves
    found = signed(model, images, attention=True)[0].sum(0)
    by_token = found.reshape(4, 2, 4, 2).sum((1, 3)).flatten()
    torch.testing.assert_close(by_token, expected, rtol=1e-3, atol=1e-6)


def test_relevance_is_that_of_zennit_where_layers_follow_each_other() -> None:
    pytest.importorskip("zennit", reason="zennit is not installed")
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonGammaBox

    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip
    images = torch.rand(3, 3, 12, 12)
    composite = EpsilonGammaBox(low=0.0, high=1.0, stabilizer=1e-9)
    with Gradient(model, composite) as attributor:
        _out, theirs = attributor(images.clone(), lambda out: out * torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(signed(model, images), theirs, rtol=1e-3, atol=1e-6)


class Before(nn.Module):
    """Something done to the images in front of a network."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.inner = change, without_biases(Residual())

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(self.change(images))  # type: ignore[no-any-return]


def test_relevance_lies_on_the_pixels_that_are_looked_at() -> None:
    torch.manual_seed(6)
    images = torch.rand(2, 3, 12, 12)
    turned = Before(lambda x: 2 * x[:, :, :6, :6].flip(3).transpose(2, 3) - 1)
    found = signed(turned, images)
    assert not bool(found[:, :, 6:].any() | found[:, :, :, 6:].any())
    expected = signed(turned.inner, turned.change(images)[:, :, :6, :6])
    # the inner network alone has other bounds, so it is the sums that must agree
    torch.testing.assert_close(found.sum((1, 2, 3)), expected.sum((1, 2, 3)), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        found.sum((1, 2, 3)), positive_logits(turned, images), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda x: F.interpolate(x, size=(9, 9), mode="bilinear", align_corners=False),
        lambda x: F.pad(x, (2, 2, 2, 2), mode="replicate"),
        lambda x: 1 - x,
    ],
)
def test_relevance_is_conserved_over_what_is_done_to_the_pixels_first(change: object) -> None:
    torch.manual_seed(7)
    model, images = Before(change), torch.rand(2, 3, 12, 12)  # type: ignore[arg-type]
    torch.testing.assert_close(
        signed(model, images).sum((1, 2, 3)), positive_logits(model, images), rtol=1e-3, atol=1e-5
    )


def test_constant_padding_keeps_what_it_alone_explains() -> None:
    torch.manual_seed(8)
    model, images = Before(lambda x: F.pad(x, (4, 4, 4, 4))), torch.rand(2, 3, 12, 12)
    found = signed(model, images)
    assert bool(found.isfinite().all())
    assert float(found.abs().sum()) < 20 * float(positive_logits(model, images).abs().sum())


def test_pixels_that_are_compared_before_the_first_layer_are_refused() -> None:
    model = Before(lambda x: x - x.mean((2, 3), keepdim=True))  # black and white look the same
    with pytest.raises(UsageError, match="before its first layer"):
        attribution(model, torch.rand(2, 3, 12, 12), 1, "lrp")


@pytest.mark.parametrize(
    ("method", "message"),
    [("attn-lrp", "no attention"), ("attention-rollout", "no attention"),
     ("token-gradient-x-input", "no patch embedding"), ("gradient-grid", "grid of its own"),
     ("token-cam", "no blocks of attention")],
)  # fmt: skip
def test_methods_for_transformers_refuse_a_cnn(
    method: str, message: str, small_cnn: nn.Module, rgb_batch: Tensor
) -> None:
    with pytest.raises(UsageError, match=message):
        attribution(small_cnn, rgb_batch, 1, method)


class Strange(nn.Module):
    def __init__(self, operation: str) -> None:
        super().__init__()
        self.layer, self.operation = nn.Conv2d(3, 2, 3), operation

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer(images).mean((2, 3))
        return getattr(torch, self.operation)(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("operation", ["exp", "sin", "square"])
def test_an_operation_without_a_rule_is_refused_by_name(operation: str) -> None:
    with pytest.raises(UsageError, match=f"no rule for '{operation}'"):
        attribution(Strange(operation), torch.rand(2, 3, 8, 8), 1, "lrp")


def test_a_program_and_a_closed_attention_are_refused() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)

    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.attention, self.head = nn.Conv2d(3, 8, 4, 4), layer, nn.Linear(8, 2)

        def forward(self, images: Tensor) -> Tensor:
            t = self.cut(images).flatten(2).transpose(1, 2)
            return self.head(self.attention(t, t, t)[0].mean(1))  # type: ignore[no-any-return]

    images = torch.rand(2, 3, 8, 8)
    for method in ("lrp", "attn-lrp", "attention-rollout"):
        with pytest.raises(UsageError, match="MultiheadAttention"):
            attribution(Closed(), images, 1, method)
