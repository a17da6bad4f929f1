"""Flipping, necessity and sufficiency of patches against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathology_scaat.evaluation.slide_card import BETTER_OR_WORSE, TAKE_TILES, _entries
from pathology_scaat.evaluation.slide_faithfulness import (
    RIVALS,
    SHARES,
    SlideFeatures,
    by_contribution,
    by_integrated_gradients,
    flip,
    marked_patches,
    measure_slide,
    probability,
    random_gain,
)
from pathology_scaat.evaluation.trust_card import TrustEntry
from pathology_scaat.training.bags import POOLINGS, BagHeadConfig
from pathology_scaat.training.bags.head import BagHead


def head_of(pooling: str = "mean") -> BagHead:
    torch.manual_seed(3)
    head = BagHead(6, 2, BagHeadConfig(pooling=pooling, attention_width=8, top_share=0.2))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return head


def planted(n: int = 40, shown: int = 8) -> tuple[BagHead, SlideFeatures, np.ndarray]:
    """A mean-pooling head whose score of class 1 is feature 0; the first patches have it."""
    head = BagHead(6, 2, BagHeadConfig(pooling="mean"))
    with torch.no_grad():
        head.score.weight.zero_()
        head.score.bias.zero_()
        head.score.weight[1, 0] = 1.0
    features = torch.zeros(n, 6)
    features[:shown, 0] = 10.0
    marked = np.arange(n) < shown
    return head, SlideFeatures(features, 1, 1.0), marked


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_necessity_and_sufficiency_by_hand() -> None:
    head, slide, marked = planted()
    whole = sigmoid(10 * 8 / 40)
    assert probability(head, slide, np.arange(40)) == pytest.approx(whole, abs=1e-6)
    found = marked_patches(head, slide, marked)
    assert found is not None
    assert found.share == 0.2
    assert found.necessity == pytest.approx(whole - 0.5, abs=1e-6)
    assert found.sufficiency == pytest.approx(sigmoid(10), abs=1e-6)
    assert found.random_necessity < 0.1
    assert found.random_sufficiency < found.sufficiency - 0.05
    assert marked_patches(head, slide, np.ones(40, bool)) is None
    assert marked_patches(head, slide, np.zeros(40, bool)) is None


def test_the_right_order_keeps_the_probability_and_its_reverse_loses_it() -> None:
    head, slide, marked = planted()
    right = flip(head, slide, marked.astype(float))
    wrong = flip(head, slide, -marked.astype(float))
    assert right.kept_most[0] == pytest.approx(sigmoid(10), abs=1e-6)
    assert right.kept_least[0] == pytest.approx(0.5, abs=1e-6)
    assert right.kept_most[-1] == pytest.approx(right.kept_least[-1])
    assert len(right.kept_most) == len(SHARES)
    assert right.gain > 0.25
    assert wrong.gain == pytest.approx(-right.gain, abs=0.02)
    assert right.drop_least_first - right.drop_most_first == pytest.approx(right.gain)
    assert flip(head, slide, by_contribution(head, slide)).gain == pytest.approx(right.gain)


def test_orders_without_knowledge_gain_nothing() -> None:
    head, slide, _ = planted()
    gains = [random_gain(head, slide, seed) for seed in range(40)]
    assert abs(np.mean(gains)) < 0.02
    assert len(set(gains)) == len(gains)  # slides with seeds of their own share no order
    # ties tell nothing: an order of equal patches is a random one, not that of the slide
    assert abs(flip(head, slide, np.zeros(40)).gain) < 0.2


@pytest.mark.parametrize("pooling", ["gated", "attention", "mean"])
def test_integrated_gradients_add_up(pooling: str) -> None:
    head = head_of(pooling)
    slide = SlideFeatures(torch.randn(15, 6), 1, 1.0)
    with torch.no_grad():
        now, before = head(slide.features), head(torch.zeros(15, 6))
    expected = float((now[1] - now[0]) - (before[1] - before[0]))
    assert by_integrated_gradients(head, slide).sum() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_everything_is_measured_for_every_pooling(pooling: str) -> None:
    head = head_of(pooling)
    slide = SlideFeatures(torch.randn(50, 6), 1, 1.3)
    found = measure_slide(head, slide, 0, evidence=np.random.default_rng(0).random(50))
    for name in (*RIVALS, "evidence", "random"):
        assert -1 <= found[f"flipping/{name}"] <= 1
    assert found == measure_slide(head, slide, 0, evidence=np.random.default_rng(0).random(50))
    assert found["flipping/contribution"] > 0


def card_entries(rows: dict[str, dict[str, float]]) -> dict[str, TrustEntry]:
    clusters = {slide: slide for slide in rows}
    scores = dict.fromkeys(rows, 0.9)
    names = ("normal", "tumour")
    return {e.measure: e for e in _entries(rows, scores, clusters, "patients", "tumour", names, {})}


def test_a_card_speaks_of_the_map_and_not_of_a_better_order() -> None:
    """Contribution alone stood for the map, whose own order may be surely worse."""
    rng = np.random.default_rng(0)
    rows = {
        f"s{k}": {"flipping/evidence": 0.3 + e, "flipping/contribution": 0.5 + e,
                  "flipping/single": 0.5 + e, "flipping/attention": 0.1 + e}
        for k, e in enumerate(rng.normal(0, 0.02, 12))
    }  # fmt: skip
    rows["s0"]["flipping/evidence"] += 0.01
    found = card_entries(rows)
    asked = found["flipping/evidence"]
    assert asked.question.startswith("Do the maps name the patches the model uses?")
    assert asked.interval is not None
    assert asked.interval.value == pytest.approx(0.3, abs=0.02)
    worse = found["flipping/evidence - contribution"]
    assert (worse.verdict, worse.words) == ("poor", BETTER_OR_WORSE["poor"] + TAKE_TILES)
    assert found["flipping/evidence - single"].words == BETTER_OR_WORSE["poor"]
    better = found["flipping/evidence - attention"]
    assert (better.verdict, better.words) == ("good", BETTER_OR_WORSE["good"])
    assert found["flipping/contribution"].verdict == "described"


def test_a_card_without_maps_says_so_and_measures_the_other_orders() -> None:
    rows = {f"s{k}": {"flipping/contribution": 0.5, "flipping/single": 0.4 + k / 100}
            for k in range(8)}  # fmt: skip
    found = card_entries(rows)
    for measure in ("flipping/evidence", "flipping/evidence - single"):
        assert found[measure].verdict == "not measured"
        assert "there are no maps of this model: 'scaat explain' makes them" in (
            found[measure].words
        )
    assert found["flipping/single"].interval is not None
    assert "no slide that this applies to" in card_entries({})["flipping/evidence"].words
