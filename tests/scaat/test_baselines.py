"""The neighbours are what their papers say: bounds, closed forms, cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pathology_scaat.scaat import make_method
from pathology_scaat.scaat.methods.adversarial import FreeTraining, Pgd, Trades, fgsm
from pathology_scaat.training.backbones import create_backbone
from pathology_scaat.training.small_cnn import SmallNet


def batch(n: int = 8, side: int = 16) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(5))
    return images, torch.arange(n) % 2


def net() -> SmallNet:
    torch.manual_seed(1)
    return SmallNet(2, widths=(8, 16)).eval()


class NoModules:
    """Stands in for the FLOP counter's module tracker, whose hooks forbid autograd.grad."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("name", "options", "units"),
    [
        ("plain", {}, 3),
        ("scaat", {}, 6),
        ("scaat", {"steps": 3}, 6 + 2 * 2),
        ("scaat", {"random_start": "before"}, 8),
        ("sgt", {}, 8),
        ("fgsm", {}, 5),
        ("pgd", {"steps": 3}, 2 * 3 + 3),
        ("trades", {"steps": 2}, 1 + 2 * 2 + 6),
        ("free", {}, 3),
        ("gradient-penalty", {}, 6),
    ],
)
def test_cost_in_passes(name: str, options: dict[str, Any], units: int) -> None:
    """A forward pass, an input gradient and a weight gradient are a unit each."""
    images, labels = batch(2, 64)
    model = create_backbone("resnet18", 2, 64).train()
    unit = FlopCounterMode(display=False)
    with unit, torch.no_grad():
        model(images)
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()  # type: ignore[assignment]
    with counter:
        make_method(name, model, **options).training_step(images, labels)
    assert counter.get_total_flops() / unit.get_total_flops() == pytest.approx(units, rel=0.05)


@pytest.mark.parametrize("make", [fgsm, Pgd, Trades])
def test_attacks_stay_within_eps_and_harm(make: Any) -> None:
    images, labels = batch()
    model = net()
    attack = make(model, eps=8 / 255, seed=1)
    adversary = attack.perturb(images, labels)
    assert float((adversary - images).abs().max()) <= 8 / 255 + 1e-6
    assert float(adversary.min()) >= 0
    assert float(adversary.max()) <= 1
    with torch.no_grad():
        clean, moved = model(images), model(adversary)
        if make is Trades:  # away from its own prediction, whatever the label
            noise = (images + 8 / 255 * attack.uniform(images)).clamp(0, 1)
            away = attack.objective.divergence(clean, moved).mean()
            assert away > 2 * attack.objective.divergence(clean, model(noise)).mean()
        else:
            assert F.cross_entropy(moved, labels) > F.cross_entropy(clean, labels)
    attack.set_progress(0.05)  # half of the warm-up
    assert float((attack.perturb(images, labels) - images).abs().max()) <= 4 / 255 + 1e-6


def test_more_steps_harm_more() -> None:
    images, labels = batch()
    model = net()
    with torch.no_grad():
        one, seven = (
            F.cross_entropy(model(attack.perturb(images, labels)), labels)
            for attack in (fgsm(model, seed=1), Pgd(model, steps=7, seed=1))
        )
    assert seven > one


def test_adversarial_training_is_the_loss_on_the_adversary() -> None:
    images, labels = batch()
    model = net()
    step = Pgd(model, steps=2).training_step(images, labels)
    assert step.perturbed is not None
    mine = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    loss = F.cross_entropy(model(step.perturbed), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(step.total, loss.detach())
    for own, parameter in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(own, parameter.grad)


def test_trades_is_clean_loss_plus_divergence() -> None:
    images, labels = batch()
    model = net()
    step = Trades(model, lam=6.0, steps=2).training_step(images, labels)
    assert step.perturbed is not None
    with torch.no_grad():
        clean, moved = model(images), model(step.perturbed)
    robust = F.kl_div(
        moved.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(step.robust, robust)
    torch.testing.assert_close(step.total, F.cross_entropy(clean, labels) + 6 * robust)


def test_free_training_replays_a_batch_while_its_perturbation_grows() -> None:
    images, labels = batch()
    other = images.flip(0)
    free = FreeTraining(net(), eps=8 / 255, replays=3)
    shown = [free.training_step(x, labels).perturbed for x in (images, other, other, other)]
    sizes = [float((x - images).abs().max()) for x in shown[:3] if x is not None]
    assert sizes[0] == 0
    assert sizes[1] == pytest.approx(8 / 255, abs=1e-6)  # a whole step of eps, then the bound
    assert sizes[2] <= 8 / 255 + 1e-6
    assert shown[3] is not None
    assert 0 < float((shown[3] - other).abs().max()) <= 8 / 255 + 1e-6  # carried over
    free.start_epoch(1)
    fresh = free.training_step(other, labels).perturbed
    assert fresh is not None
    assert torch.equal(fresh, other)


@pytest.mark.parametrize("norm", [1, 2])
def test_gradient_penalty_of_a_linear_model(norm: int) -> None:
    """The input gradient of log(1 + exp(-m)) is (1 - p) w."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.w = nn.Parameter(torch.randn(3, 8, 8, generator=generator) / 8)

        def forward(self, x: Tensor) -> Tensor:
            score = (x * self.w).sum(dim=(1, 2, 3))
            return torch.stack([torch.zeros_like(score), score], dim=1)

    images, labels = batch(side=8)
    model = Linear()
    step = make_method("gradient-penalty", model, lam=0.5, norm=norm).training_step(images, labels)
    logits = model(images)
    rest = 1 - logits.softmax(1).gather(1, labels[:, None])[:, 0]
    size = (rest * model.w.abs().sum()) if norm == 1 else rest**2 * model.w.square().sum()
    total = F.cross_entropy(logits, labels) + 0.5 * size.mean()
    torch.testing.assert_close(step.total, total.detach())
    (expected,) = torch.autograd.grad(total, model.w)
    torch.testing.assert_close(model.w.grad, expected)


def test_guided_neighbours_choose_where_their_papers_do() -> None:
    images, labels = batch()
    sgt = make_method("sgt", net())
    background = make_method("background", net())
    assert sgt.options.fill == "random"  # type: ignore[attr-defined]
    assert not sgt.options.stop_gradient  # type: ignore[attr-defined]
    attacked = [background.training_step(images, labels).perturbed is not None for _ in range(4)]
    assert attacked == [True, False, True, False]
