"""Conformal sets cover as they say, by patient; referral follows from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pathology_scaat.evaluation.performance.conformal import (
    ALPHA,
    LEAST_PATIENTS,
    NONE,
    TWO,
    UNLIKE,
    abstain,
    abstention_lines,
    key_of,
    on_slides,
    possible_classes,
    score_limit,
    unlike_by_patient,
)
from pathology_scaat.evaluation.performance.predictions import EXTERNAL, Prediction

NAMES = ("Normal", "Tumor")


def patients(
    n: int, split: str, rng: np.random.Generator, sharpness: float = 1.0, fold: int | None = None
) -> list[Prediction]:
    """Patients with probabilities that are right as often as their sharpness lets them."""
    truth = rng.integers(0, 2, n)
    z = sharpness * (2 * truth - 1) + rng.normal(size=n)
    p = 1 / (1 + np.exp(-2 * z))
    return [
        Prediction(f"{split}-{fold}-{k}", "", fold, split, NAMES[truth[k]],
                   np.array([1 - p[k], p[k]]), threshold=0.5)
        for k in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "sharpness"), [(19, 1.0), (50, 0.4), (100, 2.0)])
def test_the_true_class_is_possible_nine_times_in_ten(n: int, sharpness: float) -> None:
    rng = np.random.default_rng(n)
    covered = []
    for _ in range(120):
        rows = [*patients(n, "val", rng, sharpness), *patients(60, "test", rng, sharpness)]
        record = abstain(rows, NAMES, "Tumor", slide_unlike={}).record
        covered.append(record["judged"]["test"]["coverage"])
    expected = np.ceil((n + 1) * (1 - ALPHA)) / (n + 1)  # exact, for scores without ties
    assert abs(np.mean(covered) - expected) < 0.01
    assert 0.87 <= np.mean(covered) <= 0.93 + (expected - 0.9)
    assert expected <= 1 - ALPHA + 1 / (n + 1)


@pytest.mark.parametrize("split", ["test", EXTERNAL])
def test_out_of_fold_patients_calibrate_each_other_and_those_from_outside(split: str) -> None:
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(80):
        rows = [r for fold in range(4) for r in patients(12, "test", rng, fold=fold)]
        rows += patients(40, EXTERNAL, rng)
        record = abstain(rows, NAMES, "Tumor", slide_unlike={}).record
        assert record["calibrated_on"].startswith("out-of-fold")
        covered.append(record["judged"][split]["coverage"])
    assert abs(np.mean(covered) - 0.9) < 0.03


def test_a_patient_does_not_calibrate_itself() -> None:
    """One hopeless patient among sure ones: judged by the others, its truth is left out."""
    rng = np.random.default_rng(0)
    rows = [replace(r, probability=np.array([0.02, 0.98]), label="Tumor")
            for r in patients(20, "test", rng, fold=0)]  # fmt: skip
    rows[3] = replace(rows[3], label="Normal")
    found = abstain(rows, NAMES, "Tumor", slide_unlike={}).patients
    assert found[3].possible == ("Tumor",)


def test_too_few_patients_give_no_sets_and_say_so() -> None:
    rng = np.random.default_rng(0)
    rows = [*patients(LEAST_PATIENTS - 1, "val", rng), *patients(5, "test", rng)]
    result = abstain(rows, NAMES, "Tumor", slide_unlike={key_of(rows[-1]): 0.8})
    assert all(r.possible is None for r in result.patients)
    assert "too few" in result.record["not_given"]
    assert result.patients[-2].refer is None  # nothing tells, so nothing is said
    assert result.patients[-1].refer is True
    assert result.patients[-1].refer_reason == UNLIKE
    assert "Not given" in "\n".join(abstention_lines(result.record))


def test_who_is_referred_and_why() -> None:
    rng = np.random.default_rng(3)
    val = [replace(r, probability=np.array([0.2, 0.8]) if r.label == "Tumor"
                   else np.array([0.8, 0.2])) for r in patients(20, "val", rng)]  # fmt: skip
    cases = {
        "sure": np.array([0.05, 0.95]), "torn": np.array([0.5, 0.5]), "odd": np.array([0.1, 0.9]),
    }  # fmt: skip
    test = [Prediction(name, "", None, "test", "Tumor", p, 0.5) for name, p in cases.items()]
    result = abstain(
        [*val, *test], NAMES, "Tumor", slide_unlike={key_of(test[2]): 0.4, key_of(test[0]): 0.1}
    )
    found = {r.patient_id: r for r in result.patients}
    assert (found["sure"].possible, found["sure"].refer) == (("Tumor",), False)
    assert (found["torn"].refer, found["torn"].refer_reason) == (True, NONE)
    assert (found["odd"].refer, found["odd"].refer_reason) == (True, UNLIKE)
    slides = [Prediction("odd", "s1", None, "test", "Tumor", cases["odd"], 0.5)]
    assert on_slides(slides, result.patients)[0].refer_reason == UNLIKE
    wide = abstain(
        [*(replace(r, probability=np.array([0.6, 0.4])) for r in val), test[1]], NAMES, "Tumor",
        slide_unlike={},
    ).patients[-1]  # fmt: skip
    assert wide.refer_reason == TWO


def test_a_patient_is_as_unlike_as_its_most_unlike_slide() -> None:
    p = np.array([0.5, 0.5])
    rows = [Prediction("a", f"s{k}", None, "test", "", p, unlike_training=u)
            for k, u in enumerate((0.1, None, 0.3))]  # fmt: skip
    rows.append(Prediction("b", "s9", None, "test", "", p))
    rows.append(replace(rows[0], fold=1, unlike_training=0.9))  # another model's word of it
    assert unlike_by_patient(rows) == {
        ("a", None, "test"): 0.3, ("b", None, "test"): None, ("a", 1, "test"): 0.9,
    }  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.01, 0.5))
def test_the_limit_leaves_out_no_more_than_it_may(scores: list[float], alpha: float) -> None:
    values: NDArray[np.float64] = np.array(scores)
    limit = score_limit(values, alpha)
    n = len(values)
    kept = (values <= limit).sum()
    assert kept >= min((1 - alpha) * (n + 1) - 1e-6, n)
    sets = possible_classes(np.array([1 - values.min(), values.min()]), NAMES, limit)
    assert NAMES[0] in sets
