"""Cox's partial likelihood, the concordance index and graded classes against closed forms.

Numbers marked so were computed once with lifelines 0.30.3, which is not installed here.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.cohort.outcomes import events_of
from pathology_scaat.errors import ManifestError
from pathology_scaat.evaluation.performance.survival import Risk, measure_risks
from pathology_scaat.metrics.functional.survival import concordance
from pathology_scaat.training.heads.objectives import cox_loss, grade_log_probability


def efron(risk: list[float], time: list[float], event: list[int]) -> float:
    """Efron's partial likelihood, term by term as the books have it."""
    n_events, total = sum(event), 0.0
    for moment in sorted({t for t, e in zip(time, event, strict=True) if e}):
        tied = [r for r, t, e in zip(risk, time, event, strict=True) if e and t == moment]
        at_risk = sum(math.exp(r) for r, t in zip(risk, time, strict=True) if t >= moment)
        own = sum(map(math.exp, tied))
        total += sum(tied)
        total -= sum(math.log(at_risk - k / len(tied) * own) for k in range(len(tied)))
    return -total / n_events


patients = st.lists(
    st.tuples(st.floats(-4, 4), st.integers(1, 5), st.integers(0, 1)), min_size=2, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(patients)
def test_the_partial_likelihood_is_efrons(rows: list[tuple[float, int, int]]) -> None:
    risk, time, event = ([row[k] for row in rows] for k in range(3))
    tensors = (torch.tensor(risk, dtype=torch.float64), torch.tensor(time), torch.tensor(event))
    found = float(cox_loss(*tensors))
    if not sum(event):
        assert found == 0
        return
    assert found == pytest.approx(efron(risk, [float(t) for t in time], event), abs=1e-9)


def test_without_ties_it_is_a_product_of_choices() -> None:
    """Three patients, all seen, in the order 1, 2, 3: softmax by softmax."""
    risk = torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    loss = cox_loss(risk, torch.tensor([1.0, 2.0, 3.0]), torch.ones(3))
    e = [math.exp(v) for v in risk.tolist()]
    expected = -(math.log(e[0] / sum(e)) + math.log(e[1] / (e[1] + e[2]))) / 3
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-12)
    (slope,) = torch.autograd.grad(loss, [risk])
    assert float(slope.sum()) == pytest.approx(0, abs=1e-12)  # hazards have no zero


def brute_force(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    right = pairs = 0.0
    for i, j in itertools.permutations(range(len(risk)), 2):
        first = event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j]))
        if first:
            pairs += 1
            right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / pairs if pairs else math.nan


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.booleans()), min_size=2,
             max_size=15),
    st.integers(0, 1000),
)  # fmt: skip
def test_concordance_counts_pairs(rows: list[tuple[int, int, bool]], seed: int) -> None:
    risk, time, event = (np.array([row[k] for row in rows]) for k in range(3))
    found = concordance(risk.astype(float), time.astype(float), event)[0]
    expected = brute_force(risk, time, event)
    assert found == pytest.approx(expected, nan_ok=True)
    # a resample is the same patients written down again
    drawn = np.random.default_rng(seed).integers(0, len(risk), len(risk))
    counts = np.bincount(drawn, minlength=len(risk))[None].astype(float)
    again = concordance(risk.astype(float), time.astype(float), event, counts)[0]
    written = brute_force(risk[drawn], time[drawn], event[drawn])
    assert again == pytest.approx(written, nan_ok=True)


def cohort_of(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    risk = rng.normal(0, 1, n).round(3)
    time = (rng.exponential(np.exp(-risk)) * 10).round(4) + 0.1
    return risk, time, rng.random(n) < 0.7


@pytest.mark.parametrize(
    ("n", "seed", "expected"),
    [(25, 1, 0.6593406593406593), (60, 3, 0.7389162561576355), (200, 5, 0.7667579116036854)],
)
def test_concordance_is_that_of_lifelines(n: int, seed: int, expected: float) -> None:
    assert concordance(*cohort_of(n, seed))[0] == pytest.approx(expected, abs=1e-9)


def test_the_likelihood_is_that_of_lifelines() -> None:
    """One covariate, 40 patients, tied times, at the coefficient that lifelines ended with."""
    covariate, time, event = map(torch.from_numpy, cohort_of(40, 9))
    beta = torch.tensor(0.7062331867604079, dtype=torch.float64, requires_grad=True)
    loss = cox_loss(beta * covariate, torch.ceil(time / 3), event)
    assert -float(loss.detach()) * int(event.sum()) == pytest.approx(-74.87130440382634, abs=1e-6)
    (slope,) = torch.autograd.grad(loss, [beta])
    assert abs(float(slope)) < 1e-3  # it stops near the largest likelihood, not at it


def test_the_interval_holds_the_value_and_is_not_given_for_few_events() -> None:
    risk, time, event = cohort_of(60, 3)
    risks = [
        Risk(f"p{k}", (f"s{k}",), "test", float(r), r > 0, float(t), bool(e))
        for k, (r, t, e) in enumerate(zip(risk, time, event, strict=True))
    ]
    record = measure_risks(risks, "test patients")
    low, high = record["intervals_95"]["c_index"]
    assert low < record["c_index"] < high
    assert record["n_events"] == int(event.sum())
    few = [Risk(r.patient_id, r.slide_ids, "test", r.log_hazard, r.high, r.time, k < 3)
           for k, r in enumerate(risks)]  # fmt: skip
    risks = measure_risks(few, "test patients")
    assert risks["intervals_95"]["c_index"] is None
    assert risks["c_index"] is not None


@settings(max_examples=40, deadline=None)
@given(st.floats(-30, 30), st.lists(st.floats(0.01, 5), min_size=1, max_size=5))
def test_grades_are_the_differences_of_a_logistic_curve(score: float, steps: list[float]) -> None:
    cuts = np.cumsum([-1.0, *steps])
    found = grade_log_probability(
        torch.tensor([score], dtype=torch.float64), torch.from_numpy(cuts)
    ).exp()[0].numpy()  # fmt: skip
    above = np.concatenate([[1.0], 1 / (1 + np.exp(cuts - score)), [0.0]])
    assert found == pytest.approx(above[:-1] - above[1:], abs=1e-9)
    assert found.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("column", ["censorship", "Censored", "is_alive", "event free", "no_event"])
def test_a_column_of_those_without_an_event_is_no_column_of_events(column: str) -> None:
    """1 would be read as a death where it says that the patient was censored."""
    with pytest.raises(ManifestError, match="may mean that the event was not seen"):
        events_of({"a": "1", "b": "0"}, column)
    assert events_of({"a": "censored", "b": "event"}, column) == {"a": False, "b": True}


@pytest.mark.parametrize(
    "column", ["event", "OS_event", "dead", "survival_event", "status", "death"]
)
def test_columns_of_events(column: str) -> None:
    assert events_of({"a": "1", "b": "0"}, column) == {"a": True, "b": False}
