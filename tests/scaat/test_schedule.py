"""Plain up to ``start``: what such steps do and cost; the share of training alone decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import SCAAT, ScaatOptions
from pathology_scaat.scaat.methods import make_method
from pathology_scaat.scaat.schedule import Schedule

SHARES = st.floats(0, 1)


class Counting(nn.Module):
    """Logits from all pixels; counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 2)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 0, 1])


@given(start=SHARES, warmup=SHARES, progress=SHARES)
def test_strength_is_nothing_then_grows_to_the_whole(
    start: float, warmup: float, progress: float
) -> None:
    schedule = Schedule(start, warmup)
    strength = schedule.strength(progress)
    assert 0 <= strength <= 1
    assert start <= schedule.settled_at <= 1
    if schedule.is_plain(progress):
        assert strength == 0
    if progress > schedule.settled_at + 1e-9:
        assert strength == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scaat", {}),
        ("scaat", {"steps": 3, "random_start": "before"}),
        ("sgt", {}),
        ("scaat-amortised", {}),
        ("random-mask", {}),
        ("fgsm", {}),
        ("trades", {}),
        ("free", {}),
        ("gradient-penalty", {}),
        ("background", {"saliency": "gradient", "every": 1}),
    ],
)
def test_before_start_a_step_is_a_plain_one_and_costs_one_forward(
    name: str, options: dict[str, Any], images: Tensor
) -> None:
    from pathology_scaat.scaat.method import Visit

    visit = Visit(torch.arange(4), torch.zeros(4, dtype=torch.int64))
    torch.manual_seed(0)
    staged, plain = Counting(), Counting()
    plain.load_state_dict(staged.state_dict())
    method = make_method(name, staged, start=0.5, **options)
    for progress in (0.1, 0.5):
        method.set_progress(progress)
        staged.zero_grad()
        losses = method.training_step(images, LABELS, visit=visit)
        assert losses.perturbed is None
    assert staged.passes == 2
    make_method("plain", plain).training_step(images, LABELS)
    assert torch.equal(staged.layer.weight.grad, plain.layer.weight.grad)  # type: ignore[arg-type]
    method.set_progress(1.0)
    for _ in range(2):  # methods with a memory fill it with the first
        staged.zero_grad()
        method.training_step(images, LABELS, visit=visit)
    assert not torch.equal(staged.layer.weight.grad, plain.layer.weight.grad)  # type: ignore[arg-type]


def test_the_budget_grows_from_start_on(images: Tensor) -> None:
    method = SCAAT(Counting(), eps=0.1, start=0.5, warmup=0.5)
    found = []
    for share in (0.25, 0.5, 0.625, 0.75, 1.0):
        method.set_progress(share)
        found.append(round(method.eps_now, 6))
    assert found == [0.0, 0.0, 0.05, 0.1, 0.1]
    method.set_progress(0.25)
    assert torch.equal(method.perturb(images, LABELS), images)


def test_without_start_the_first_step_is_the_methods_own(images: Tensor) -> None:
    method = make_method("sgt", Counting())
    method.set_progress(0.0)
    assert method.training_step(images, LABELS).perturbed is not None


def test_loss_for_own_loops_is_plain_before_start(images: Tensor) -> None:
    model = Counting()
    method = SCAAT(model, start=0.5)
    method.set_progress(0.4)
    loss = method.loss(images, LABELS).detach()
    assert model.passes == 1
    assert torch.equal(loss, nn.functional.cross_entropy(model(images), LABELS).detach())


@pytest.mark.parametrize("start", [-0.1, 1.1, float("nan")])
def test_a_start_that_is_no_share_is_refused(start: float) -> None:
    with pytest.raises(UsageError, match="start"):
        ScaatOptions(start=start)
    with pytest.raises(UsageError, match="start"):
        make_method("pgd", Counting(), start=start)


def test_the_schedule_has_no_memory_of_its_own() -> None:
    """A method's stored state does not hang on its stage: the share of training decides."""
    first = SCAAT(Counting(), start=0.5)
    first.set_progress(0.9)
    second = SCAAT(Counting(), start=0.5)
    second.load_state_dict(first.state_dict())
    second.set_progress(0.2)
    assert second.is_plain
    assert set(first.state_dict()) == {"steps_done"}
