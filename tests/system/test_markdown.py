"""A class name that looks like HTML is read as it is written; one slide is no plural."""

from __future__ import annotations

import numpy as np

from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.evaluation.performance.report import measure_performance
from pathology_scaat.evaluation.performance.report_files import markdown
from pathology_scaat.evaluation.trust_card import TrustCard, TrustEntry, card_markdown

NAMES = ("<none>", "grade <b>3</b>")


def _written(n: int) -> str:
    rows = [
        Prediction(
            f"p{i}", f"s{i}", None, "test", NAMES[i % 2], np.array([0.9 - i % 2 * 0.8, 0.1]), 0.5
        )
        for i in range(n)
    ]
    found = measure_performance(rows, NAMES, NAMES[1], how={}).performance
    assert found is not None
    return markdown(found)


def test_names_of_classes_are_no_html() -> None:
    text = _written(8)
    assert (
        "On test slides: 8 slides of 8 patients (patients of each class: \\<none> 4, grade "
        "\\<b>3\\</b> 4). Positive class: grade \\<b>3\\</b>."
    ) in text
    assert "| truth | predicted \\<none> | predicted grade \\<b>3\\</b> |" in text
    assert "<none>" not in text.replace("\\<", "")


def test_a_bar_in_a_class_name_ends_no_cell_of_a_trust_card() -> None:
    entry = TrustEntry(
        "Where is grade 1|2?", "pixel_ap", None, None, "not measured", "of grade 1|2"
    )
    card = TrustCard(
        "a" * 64, "plain", "gradient", "grade 1|2", "d", 4, 2, "patients", True, "yes", 1.0,
        (entry,), {},
    )  # fmt: skip
    (row,) = [line for line in card_markdown(card).splitlines() if "Where is" in line]
    assert row.replace("\\|", "").count("|") == 6
    assert row.count("grade 1\\|2") == 2
