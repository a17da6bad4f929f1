"""SCAAT against closed forms: what must hold whatever the data."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import SCAAT, ScaatOptions, make_method
from pathology_scaat.scaat.batch_norm import batch_norm_policy
from pathology_scaat.scaat.budget import pixel_budget, pixel_saliency
from pathology_scaat.training.backbones import create_backbone


def batch(n: int = 4, side: int = 32, classes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand((n, 3, side, side), generator=generator)
    return images, torch.arange(n) % classes


def network(name: str, side: int = 32) -> nn.Module:
    torch.manual_seed(1)
    return create_backbone(name, 2, side)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


class Linear(nn.Module):
    """logits = (0, w . x): the gradient is w whatever x."""

    def __init__(self, side: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        # small enough for the softmax not to round to 0 and 1
        self.w = nn.Parameter(torch.randn(3, side, side) / side)

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.w).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)


@given(
    eps=st.floats(0, 1),
    ratio=st.floats(0, 1),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    where=st.sampled_from(["low", "high", "random", "all"]),
    budget=st.sampled_from(["value", "rank"]),
    scale=st.sampled_from(["none", "confidence", "instance"]),
    region=st.sampled_from(["all", "tissue"]),
    start=st.sampled_from(["with", "before", "none"]),
)
def test_change_is_within_eps_and_image_within_range(
    eps: float,
    ratio: float,
    gamma: float,
    where: str,
    budget: str,
    scale: str,
    region: str,
    start: str,
) -> None:
    images, labels = batch(side=12)
    scaat = SCAAT(
        Linear(12), eps, mask_ratio=ratio, gamma=gamma, where=where, budget=budget,
        sample_scale=scale, region=region, random_start=start,
    )  # fmt: skip
    adversary = scaat.perturb(images, labels)
    assert float((adversary - images).abs().max()) <= eps + 1e-6
    assert float(adversary.min()) >= 0
    assert float(adversary.max()) <= 1


@pytest.mark.parametrize("colour_space", ["rgb", "optical-density"])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_pixels_without_budget_are_bit_identical(colour_space: str, gamma: float) -> None:
    images, labels = batch(side=16)
    scaat = SCAAT(Linear(16), 0.2, gamma=gamma, colour_space=colour_space)
    gradient = scaat.input_gradient(images, labels)
    share = pixel_budget(pixel_saliency(gradient, 3), scaat.options)
    adversary = scaat.perturb(images, labels)
    spared = (share == 0).expand_as(images)
    assert bool(spared.any())
    assert torch.equal(adversary[spared], images[spared])
    assert bool((adversary[~spared] != images[~spared]).any())


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_hard_mask_has_the_asked_area(ratio: float) -> None:
    saliency = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    for where in ("low", "high"):
        share = pixel_budget(saliency, ScaatOptions(mask_ratio=ratio, where=where, gamma=0.0))
        assert share.sum(dim=(1, 2, 3)).tolist() == [math.ceil(ratio * 400)] * 3
    if 0 < ratio < 1:
        low = pixel_budget(saliency, ScaatOptions(mask_ratio=ratio, gamma=0.0)) > 0
        assert float(saliency[low].max()) <= float(saliency[~low].max())


def test_flat_saliency_does_not_divide_by_zero_and_a_silent_one_spares_all() -> None:
    for gamma in (0.0, 1.0):
        share = pixel_budget(torch.ones(2, 1, 8, 8), ScaatOptions(gamma=gamma))
        assert bool(torch.isfinite(share).all())
        silent = pixel_budget(torch.zeros(2, 1, 8, 8), ScaatOptions(gamma=gamma))
        assert float(silent.sum()) == 0


def test_linear_model_closed_form() -> None:
    """Without noise and clipping, the margin moves by exactly sum(budget |w|)."""
    side, eps = 16, 0.05
    model = Linear(side)
    images, labels = batch(side=side)
    images = 0.3 + 0.4 * images  # nothing is clipped
    scaat = SCAAT(model, eps, gamma=1.0, random_start="none", smooth_px=1)
    adversary = scaat.perturb(images, labels)
    s = model.w.detach().abs().amax(dim=0)
    s_k = s.flatten().kthvalue(math.ceil(0.5 * side * side)).values
    budget = eps * (1 - s / s_k).clamp(min=0)
    expected = (budget * model.w.detach().abs()).sum()
    with torch.no_grad():
        moved = model(adversary)[:, 1] - model(images)[:, 1]
    sign = torch.where(labels == 1, -1.0, 1.0)  # the attack lowers the true class
    torch.testing.assert_close(moved, sign * expected, rtol=1e-4, atol=1e-4)


def test_lam_zero_is_plain_training_bit_for_bit() -> None:
    images, labels = batch()
    finals = []
    for name, options in (("plain", {}), ("scaat", {"lam": 0.0})):
        model = network("resnet18")
        method = make_method(name, model, **options)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model.train()
        for _ in range(2):
            optimizer.zero_grad()
            method.training_step(images, labels)
            optimizer.step()
        finals.append(model.state_dict())
    for key, value in finals[0].items():
        assert torch.equal(value, finals[1][key]), key


@pytest.mark.parametrize(
    "name", ["scaat-small", "resnet18", "convnext_atto", "vit_tiny_patch16_224"]
)
def test_shared_backward_equals_two_passes(name: str) -> None:
    """BatchNorm in evaluation mode: the same gradients as the naive order of passes."""
    images, labels = batch()
    model = network(name).eval()
    naive = copy.deepcopy(model)
    scaat = SCAAT(model, 16 / 255, random_start="none")
    scaat.training_step(images, labels)

    x = images.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(naive(x), labels), x)
    saliency = pixel_saliency(g * len(x), 3)
    budget = pixel_budget(saliency, scaat.options) * scaat.options.eps
    adversary = (images + budget * g.sign()).clamp(0, 1)
    clean = naive(images)
    kl = F.kl_div(
        F.log_softmax(naive(adversary), 1), F.softmax(clean.detach(), 1), reduction="batchmean"
    )
    (F.cross_entropy(clean, labels) + kl).backward()  # type: ignore[no-untyped-call]
    mine, theirs = gradients(model), gradients(naive)
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        scale = float(value.abs().max()) + 1e-6
        assert float((mine[key] - value).abs().max()) <= 1e-6 * max(scale, 1.0), key


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18", 96), ("convnext_atto", 96), ("vit_tiny_patch16_224", 64)]
)
def test_cost_is_two_plain_steps(name: str, side: int) -> None:
    """FLOPs of the full step within 3 % of twice a plain one; at most 1.25 when amortised."""
    images, labels = batch(2, side)
    model = network(name, side).train()
    costs: dict[str, int] = {}
    for method_name in ("plain", "scaat"):
        method = make_method(method_name, model)
        counter = FlopCounterMode(display=False)
        with counter:
            method.training_step(images, labels)
        costs[method_name] = counter.get_total_flops()
    assert costs["scaat"] / costs["plain"] == pytest.approx(2.0, rel=0.03)


def test_batch_norm_statistics_come_from_clean_images_only() -> None:
    images, labels = batch()
    plain, attacked = network("resnet18").train(), network("resnet18").train()
    make_method("plain", plain).training_step(images, labels)
    SCAAT(attacked, 0.2).training_step(images, labels)
    for key, value in plain.state_dict().items():
        if "running" in key or "tracked" in key:
            assert torch.equal(value, attacked.state_dict()[key]), key


@pytest.mark.parametrize("policy", ["clean", "frozen", "shared"])
def test_batch_norm_policy_leaves_the_modules_as_they_were(policy: str) -> None:
    model = network("resnet18").train()
    before = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    with batch_norm_policy(model, policy):
        model(batch()[0])
    after = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    assert before == after


def test_perturb_leaves_gradients_and_statistics_alone() -> None:
    model = network("resnet18").train()
    state = copy.deepcopy(model.state_dict())
    SCAAT(model, 0.1).perturb(*batch())
    assert gradients(model) == {}
    for key, value in state.items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert all(p.requires_grad for p in model.parameters())


def test_loss_equals_training_step() -> None:
    images, labels = batch()
    model = network("scaat-small").eval()
    first = SCAAT(model, 0.1, seed=3).loss(images, labels)
    second = SCAAT(model, 0.1, seed=3).training_step(images, labels).total
    assert float(first.detach()) == pytest.approx(float(second), rel=1e-5)


def test_steps_make_a_stronger_adversary() -> None:
    images, labels = batch(8)
    model = network("scaat-small").eval()

    def harm(**options: Any) -> float:
        adversary = SCAAT(model, 0.1, where="all", seed=1, **options).perturb(images, labels)
        with torch.no_grad():
            return float(F.cross_entropy(model(adversary), labels))

    with torch.no_grad():
        clean = float(F.cross_entropy(model(images), labels))
    assert clean < harm(steps=1) <= harm(steps=5) + 1e-3
    assert harm(direction="random-sign") < harm(steps=1)


def test_warmup_and_every() -> None:
    scaat = SCAAT(Linear(8), 0.1, start=0.0, warmup=0.5, every=2)
    scaat.set_progress(0.25)
    assert scaat.eps_now == pytest.approx(0.05)
    images, labels = batch(side=8)
    perturbed = [scaat.training_step(images, labels).perturbed is not None for _ in range(4)]
    assert perturbed == [True, False, True, False]


def test_batch_share_perturbs_a_part() -> None:
    images, labels = batch(8, side=8)
    losses = SCAAT(Linear(8), 0.1, batch_share=0.25).training_step(images, labels)
    assert losses.perturbed is not None
    assert len(losses.perturbed) == 2
    assert len(losses.logits) == 8


def test_same_seed_same_adversary() -> None:
    images, labels = batch(side=8)
    one, two, other = (SCAAT(Linear(8), 0.1, seed=s).perturb(images, labels) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"eps": 2.0}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"where": "up"}, "where"),
        ({"smooth_px": 2}, "smooth_px"),
        ({"nonsense": 1}, "nonsense"),
        ({"steps": 0}, "steps"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        SCAAT(Linear(8), **options)
