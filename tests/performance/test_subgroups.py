"""Performance by a column: the same patients, each group with intervals of its own."""

from __future__ import annotations

import numpy as np
import pytest

from pathology_scaat.errors import ManifestError
from pathology_scaat.evaluation.performance.predictions import Prediction, by_patient
from pathology_scaat.evaluation.performance.report import measure_performance
from pathology_scaat.evaluation.performance.subgroups import (
    MIXED,
    NOT_GIVEN,
    measure_subgroups,
    subgroup_lines,
)

NAMES = ("Normal", "Tumor")


def slides(n: int, seed: int = 0) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        positive = k % 2 == 1
        p = float(np.clip((0.65 if positive else 0.35) + rng.normal(0, 0.2), 0.01, 0.99))
        found.append(Prediction(f"p{k}", f"s{k}", None, "test", NAMES[positive],
                                np.array([1 - p, p]), 0.5))  # fmt: skip
    return found


def test_each_group_is_measured_as_if_it_were_alone() -> None:
    rows = slides(60)
    site = {r.slide_id: ("north", "south")[k // 30] for k, r in enumerate(rows)}
    groups = measure_subgroups(rows, by_patient(rows, NAMES, "Tumor"), {"site": site}, NAMES,
                               "Tumor")  # fmt: skip
    assert [(g.value, g.n_patients, g.n_slides) for g in groups] == [
        ("north", 30, 30), ("south", 30, 30),
    ]  # fmt: skip
    for group, part in zip(groups, (rows[:30], rows[30:]), strict=True):
        alone = measure_performance(part, NAMES, "Tumor", how={}).performance
        assert alone is not None
        assert group.patient is not None
        mine, theirs = group.patient.estimates["auroc"], alone.patient.estimates["auroc"]
        assert (mine.value, mine.low, mine.high) == (theirs.value, theirs.low, theirs.high)


def test_nobody_is_lost_and_one_class_is_not_measured() -> None:
    rows = slides(24)
    rows.append(Prediction("p1", "s-more", None, "test", "Tumor", np.array([0.2, 0.8]), 0.5))
    site = {r.slide_id: "a" for r in rows[:10]} | {"s-more": "b"}
    site |= {rows[k].slide_id: "only tumour" for k in (11, 13, 15)}
    groups = measure_subgroups(rows, by_patient(rows, NAMES, "Tumor"), {"site": site}, NAMES,
                               "Tumor")  # fmt: skip
    assert sum(g.n_patients for g in groups) == 24
    assert sum(g.n_slides for g in groups) == 25
    found = {g.value: g for g in groups}
    assert set(found) == {"a", "only tumour", MIXED, NOT_GIVEN}
    assert found[MIXED].n_patients == 1
    assert found["only tumour"].patient is None
    text = "\n".join(subgroup_lines(groups, 2))
    assert "| only tumour | 3 (Normal 0, Tumor 3) | not measurable: patients of one class |" in text
    assert found["only tumour"].as_dict()["measurable"] is False


def test_a_column_of_many_values_is_refused() -> None:
    rows = slides(40)
    with pytest.raises(ManifestError, match="at most 20"):
        measure_subgroups(rows, rows, {"id": {r.slide_id: r.slide_id for r in rows}}, NAMES,
                          "Tumor")  # fmt: skip
