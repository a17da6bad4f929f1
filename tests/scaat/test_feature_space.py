"""SCAAT at a layer: the budget is exact, the cost is that of pixels, and a resume is exact."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import SCAAT, ScaatOptions, make_method
from pathology_scaat.scaat.feature_attack import feature_budget, layer_named
from pathology_scaat.training.small_cnn import SmallNet


def net() -> SmallNet:
    torch.manual_seed(1)
    return SmallNet(2, widths=(8, 16))


def vit() -> nn.Module:
    torch.manual_seed(1)
    model = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=2
    )
    model.head.weight.data.mul_(30)  # it begins so small that nothing moves its predictions
    return model


def task(n: int = 6, side: int = 16) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(5))
    return images, torch.arange(n) % 2


def outputs(model: nn.Module, layer: str, step: Any) -> list[Tensor]:
    """What a layer makes of its input in each pass of a step, before any change."""
    seen: list[Tensor] = []
    module = layer_named(model, layer)
    plain = module.forward

    def watched(*args: Any) -> Tensor:
        made = plain(*args)
        seen.append(made.detach().clone())
        return made  # type: ignore[no-any-return]

    module.forward = watched  # type: ignore[method-assign]
    try:
        step()
    finally:
        del module.forward
    return seen


class Linear(nn.Module):
    """Features are the image; the margin is their sum by fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(3, 8, 8, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        score = (self.features(x) * self.w).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_change_of_a_linear_model_is_known(steps: int) -> None:
    model = Linear()
    images, labels = task(side=8)
    scaat = SCAAT(
        model, 0.1, layer="features", gamma=0.0, random_start="none", smooth_px=1, steps=steps,
        loss="mse",
    )  # fmt: skip
    losses = scaat.training_step(images, labels)
    saliency = model.w.detach().abs().amax(0)
    chosen = saliency <= saliency.flatten().kthvalue(32).values
    rms = images.flatten(1).square().mean(1).sqrt()
    # every feature of a chosen place moves by eps, against the true class
    moved = 0.1 * rms * (model.w.detach().abs() * chosen).sum()
    torch.testing.assert_close(losses.robust, (moved.square() / 2).mean(), rtol=1e-4, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.booleans(), side=st.integers(3, 9), channels=st.integers(1, 5),
    ratio=st.floats(0.05, 0.95), gamma=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_budget_holds_for_the_positions_of_maps_and_for_tokens(
    tokens: bool, side: int, channels: int, ratio: float, gamma: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, side * side, channels) if tokens else (3, channels, side, side)
    activation, gradient = torch.randn((2, *shape), generator=generator)
    options = ScaatOptions(mask_ratio=ratio, gamma=gamma, layer="any", smooth_px=1)
    budget = feature_budget(activation, gradient, options, 0.2, generator)
    assert budget.shape == ((3, side * side, 1) if tokens else (3, 1, side, side))
    largest = 0.2 * activation.flatten(1).square().mean(1).sqrt()
    assert bool((budget.flatten(1) <= largest[:, None] * (1 + 1e-6)).all())
    if gamma == 0:
        allowed = budget.flatten(1) > 0
        assert allowed.sum(1).tolist() == [math.ceil(ratio * side * side)] * 3
        axis = 2 if tokens else 1
        saliency = gradient.abs().amax(axis).flatten(1)
        inside = saliency.masked_fill(~allowed, -1).amax(1)
        assert bool((inside <= saliency.masked_fill(allowed, math.inf).amin(1)).all())


@pytest.mark.parametrize(
    ("make", "layer"), [(net, "stem"), (vit, "blocks.0"), (vit, "patch_embed")]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_no_position_moves_further_than_its_budget(make: Any, layer: str, steps: int) -> None:
    model = make().eval()
    images, labels = task()
    scaat = SCAAT(model, 0.1, layer=layer, gamma=0.0, steps=steps, smooth_px=1)
    changes: list[Tensor] = []
    real = scaat.robust_loss
    following = layer_named(model, layer)

    def watched(*args: Tensor) -> Tensor:
        handle = following.register_forward_hook(lambda _m, _i, out: changes.append(out.detach()))
        try:
            return real(*args)
        finally:
            handle.remove()

    scaat.robust_loss = watched  # type: ignore[method-assign]
    (clean, *_rest) = outputs(model, layer, lambda: scaat.training_step(images, labels))
    change = changes[-1] - clean
    axis = 1 if change.ndim == 4 else 2
    limit = 0.1 * clean.flatten(1).square().mean(1).sqrt()
    furthest = change.abs().amax(axis).flatten(1)
    assert bool((furthest <= limit[:, None] * (1 + 1e-4) + 1e-6).all())
    n_positions = furthest.shape[1]
    moved = (furthest > 1e-3 * limit[:, None]).sum(1)
    assert bool((moved <= math.ceil(0.5 * n_positions)).all())
    assert bool((moved >= math.ceil(0.4 * n_positions)).all())


@pytest.mark.parametrize(
    "options",
    [{}, {"where": "high"}, {"where": "random"}, {"where": "all"}, {"batch_share": 0.5},
     {"sample_scale": "confidence"}, {"sample_scale": "instance"}, {"unmasked_share": 0.5},
     {"direction": "gaussian"}, {"loss": "ce"}, {"budget": "rank"}, {"steps": 2}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(("make", "layer"), [(net, "stem"), (vit, "blocks.0")])
def test_options_go_with_a_layer(make: Any, layer: str, options: dict[str, Any]) -> None:
    images, labels = task()
    model = make()
    method = make_method("scaat", model, layer=layer, **options)
    losses = method.training_step(images, labels)
    assert float(losses.robust) > 0
    assert bool(losses.total.isfinite())
    assert all(p.grad is not None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_statistics_count_the_clean_pass_alone() -> None:
    images, labels = task()
    scaat, plain = net(), net()
    make_method("scaat", scaat, layer="stem").training_step(images, labels)
    make_method("plain", plain).training_step(images, labels)
    for (name, value), other in zip(scaat.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


def test_it_costs_two_plain_steps() -> None:
    images, labels = task(side=32)

    def flops(method: str, **options: Any) -> int:
        made = make_method(method, net(), **options)
        with FlopCounterMode(display=False) as counter:
            made.training_step(images, labels)
        return counter.get_total_flops()

    assert flops("scaat", layer="stem") <= 2.01 * flops("plain")


def test_a_loss_for_a_loop_of_ones_own_is_that_of_the_step() -> None:
    images, labels = task()
    first, second = net().eval(), net().eval()
    step = SCAAT(first, layer="stem", random_start="none").training_step(images, labels)
    loss = SCAAT(second, layer="stem", random_start="none").loss(images, labels)
    loss.backward()
    torch.testing.assert_close(loss.detach(), step.total)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_a_resumed_training_is_the_same_to_the_bit() -> None:
    images, labels = task()

    def epochs(model: nn.Module, method: SCAAT, optimiser: Any, which: range) -> None:
        for epoch in which:
            method.start_epoch(epoch)
            for step in range(2):
                method.set_progress((2 * epoch + step + 1) / 6)
                optimiser.zero_grad()
                method.training_step(images, labels)
                optimiser.step()

    def begun() -> tuple[nn.Module, SCAAT, Any]:
        model = net().train()
        made = SCAAT(model, layer="stem", start=0.3, warmup=0.5)
        return model, made, torch.optim.AdamW(model.parameters(), lr=1e-3)

    whole = begun()
    epochs(*whole, range(3))
    half = begun()
    epochs(*half, range(1))
    kept = copy.deepcopy([part.state_dict() for part in half])
    resumed = begun()
    for part, state in zip(resumed, kept, strict=True):
        part.load_state_dict(state)
    epochs(*resumed, range(1, 3))
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[name]), name


def test_what_has_no_meaning_there_is_refused() -> None:
    for options in (
        {"saliency": "smoothgrad"}, {"fill": "mean"}, {"region": "tissue"}, {"grid": "network"},
        {"colour_space": "optical-density"}, {"random_start": "before"}, {"stop_gradient": False},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="layer: 'stem' does not go with"):
            ScaatOptions(layer="stem", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the change is made inside the network"):
        SCAAT(net(), layer="stem").perturb(*task())


def test_a_layer_is_found_by_the_end_of_its_name_and_missed_in_words() -> None:
    model = nn.Sequential()
    model.add_module("backbone", vit())
    assert layer_named(model, "blocks.1") is model.backbone.blocks[1]
    with pytest.raises(UsageError, match="is the end of 2 names"):
        layer_named(model, "attn")
    with pytest.raises(UsageError, match="has no 'blocs'"):
        layer_named(model, "blocs")
    with pytest.raises(UsageError, match="name another layer"):
        make_method("scaat", vit(), layer="head").training_step(*task())
