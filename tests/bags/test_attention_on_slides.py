"""Attention learns from whole slides at the end; the class scores of single patches stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pathology_scaat.metrics.functional.calibration import smoothed_loss, smoothed_losses
from pathology_scaat.scaat.objective import SingleLabelObjective
from pathology_scaat.training.bags.attention import (
    finish_attention,
    losses_of_slides,
    surely_worse,
)
from pathology_scaat.training.bags.config import BagConfig, BagHeadConfig
from pathology_scaat.training.bags.finishing import (
    NOT_FINISHED,
    Finished,
    finished,
    later_unless_worse,
)
from pathology_scaat.training.bags.head import BagHead

N_FEATURES = 8
LABELS = np.arange(24) % 2


def _slides(seed: int) -> list[torch.Tensor]:
    """Slides of 200 patches, each with a mean of its own; two of a positive one's stand out."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(len(LABELS), 200, N_FEATURES)).astype(np.float32)
    made += 0.3 * rng.normal(size=(len(LABELS), 1, N_FEATURES)).astype(np.float32)
    for label, slide in zip(LABELS, made, strict=True):
        if label:
            slide[rng.choice(200, 2, replace=False), :2] += (6.0, 6.0)
    return [torch.from_numpy(slide) for slide in made]


def _head(pooling: str = "gated") -> BagHead:
    """A head that knows what a patch shows, and weighs all patches the same."""
    torch.manual_seed(0)
    head = BagHead(N_FEATURES, 2, BagHeadConfig(pooling=pooling, attention_width=8))
    with torch.no_grad():
        head.score.weight.zero_()
        head.score.bias.zero_()
        head.score.weight[1, :2] = 1.0
    return head


def _auc(head: BagHead, slides: list[torch.Tensor]) -> float:
    with torch.no_grad():
        logits = [head(slide) for slide in slides]
    return float(roc_auc_score(LABELS, [float(z[1] - z[0]) for z in logits]))


def test_it_singles_out_the_few_patches_that_decide() -> None:
    head = _head()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    unseen = _slides(1)
    first = _auc(head, unseen)
    finish_attention(head, _slides(0), LABELS, SingleLabelObjective(), steps=1000, seed=0)
    assert first < 0.8
    assert _auc(head, unseen) > 0.95
    after = head.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("score"))
    assert not torch.equal(before["attention_out.weight"], after["attention_out.weight"])
    assert all(p.grad is None for p in head.parameters())


@pytest.mark.parametrize(("pooling", "steps"), [("gated", 0), ("mean", 50), ("top", 50)])
def test_nothing_changes_without_steps_or_attention(pooling: str, steps: int) -> None:
    head = _head(pooling)
    before = {k: v.clone() for k, v in head.state_dict().items()}
    finish_attention(head, _slides(0), LABELS, SingleLabelObjective(), steps=steps, seed=0)
    assert all(torch.equal(v, head.state_dict()[k]) for k, v in before.items())


def test_equal_seeds_give_equal_weights() -> None:
    heads = [_head(), _head(), _head()]
    for head, seed in zip(heads, (5, 5, 6), strict=True):
        finish_attention(
            head, _slides(0), LABELS, SingleLabelObjective(), steps=5, seed=seed, balanced=True
        )
    weights = [head.attention_out.weight for head in heads]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_losses_of_cases_have_the_mean_that_ranks_epochs() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 3)), rng.integers(0, 3, 9)
    assert smoothed_losses(logits, labels).mean() == pytest.approx(smoothed_loss(logits, labels))


def test_nothing_is_sure_of_one_slide() -> None:
    assert not surely_worse(np.array([9.0]), than=np.array([0.1]))
    assert not surely_worse(np.zeros(0), than=np.zeros(0))


@dataclass
class _Model:
    head: BagHead

    def eval(self) -> None:
        self.head.eval()


@dataclass
class _Table:
    labels: np.ndarray


@dataclass
class _Config:
    bag: BagConfig
    class_balance: str = "none"


@dataclass
class _Job:
    train: _Table
    val: _Table
    config: _Config
    seed: int = 0


def _finished(validation_labels: np.ndarray) -> tuple[Finished, BagHead, dict[str, torch.Tensor]]:
    head, unseen = _head(), _slides(1)
    before = {k: v.clone() for k, v in head.state_dict().items()}

    def logits(model: Any) -> Any:
        with torch.no_grad():
            return np.stack([model.head(slide).numpy() for slide in unseen])

    job = _Job(_Table(LABELS), _Table(validation_labels), _Config(BagConfig(attention_steps=1000)))
    found = finished(
        cast(Any, _Model(head)), 3, cast(Any, job), SingleLabelObjective(), logits,
        lambda model: iter(_slides(0)),
    )  # fmt: skip
    return found, head, before


def test_finished_attention_is_kept_where_validation_slides_say_so() -> None:
    found, head, before = _finished(LABELS)
    assert "1,000 steps" in found.notes[0]
    assert not torch.equal(before["attention_out.weight"], head.attention_out.weight)
    assert losses_of_slides(found.logits, LABELS).mean() < 0.45


def test_it_is_left_as_it_was_where_validation_slides_are_surely_worse() -> None:
    found, head, before = _finished(1 - LABELS)
    assert found.notes == (NOT_FINISHED,)
    assert all(torch.equal(v, head.state_dict()[k]) for k, v in before.items())


def test_the_last_epoch_is_kept_unless_it_is_surely_worse() -> None:
    sure = np.stack([1 - 2.0 * LABELS, 2.0 * LABELS - 1], axis=1).astype(np.float32) * 3
    unsure = np.random.default_rng(0).normal(scale=0.3, size=sure.shape).astype(np.float32)
    one, other = sure.copy(), sure.copy()
    one[0] /= 10  # each is less sure of another slide of the same class
    other[2] /= 10

    def of(logits: np.ndarray, epoch: int) -> Finished:
        return Finished(cast(Any, None), epoch, logits, ())

    assert later_unless_worse(of(sure, 2), of(unsure, 9), LABELS).epoch == 2
    assert later_unless_worse(of(one, 2), of(other, 9), LABELS).epoch == 9
    assert later_unless_worse(of(unsure, 2), of(sure, 9), LABELS).epoch == 9
