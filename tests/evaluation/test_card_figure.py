"""The picture of a trust card explains itself: verdicts, patients, what must be known first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pathology_scaat.evaluation.card_figure import card_title, draw_card
from pathology_scaat.evaluation.trust_card import TrustCard, TrustEntry, card_markdown
from pathology_scaat.metrics.functional.statistics import Interval

PAINTED = "The model learnt from painted slides (scaat demo), not from patients' tissue."


def card() -> TrustCard:
    auc = Interval(0.99, 0.97, 1.0, 840, 2)
    srg = Interval(0.3, 0.2, 0.4, 840, 2)
    entries = (
        TrustEntry("How well?", "auc", auc, 0.5, "good", "good"),
        TrustEntry("Hidden?", "srg/swap/probability", srg, 0.0, "unclear", "unclear"),
        TrustEntry("Steady?", "gini", srg, None, "described", "a description"),
    )
    return TrustCard(
        "a" * 64, "plain", "gradient", "Tumor", "d", 840, 2, "patients", True, "yes", 1.5,
        entries, {}, slide_notes=(PAINTED, "Slide s: its annotation is in doubt"),
    )  # fmt: skip


def test_colours_of_verdicts_are_told_and_patients_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    legends: list[list[str]] = []
    legend = Figure.legend

    def told(self: Figure, *args: Any, **how: Any) -> Any:
        legends.append([mark.get_label() for mark in how["handles"]])
        return legend(self, *args, **how)

    monkeypatch.setattr(Figure, "legend", told)
    draw_card(card(), tmp_path / "card.png")
    assert legends == [["good", "unclear"]]
    first, second, third = card_title(card()).splitlines()
    assert "class Tumor" in first
    assert second == "840 patches of 2 patients: too few to say what follows for others"
    assert third == PAINTED
    many = card_title(replace(card(), n_groups=40, warning="THE MODEL: HAS LEARNT NOTHING"))
    assert "too few" not in many
    assert "HAS LEARNT NOTHING" in many
    draw_card(replace(card(), entries=()), tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").is_file()


def test_the_card_says_what_hides_pixels() -> None:
    text = card_markdown(card())
    assert "*swap*: the same place of another image stands there" in text
    assert "*blur*" not in text
    assert "Hidden pixels" not in card_markdown(replace(card(), entries=card().entries[:1]))
