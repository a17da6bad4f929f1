"""Intervals over patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional import statistics


def test_interval_of_independent_values_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, 400)
    found = statistics.clustered_mean(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_alike_values_of_a_patient_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(10), 50)
    values = rng.normal(0, 1, 10)[patients] + rng.normal(0, 0.1, 500)
    clustered = statistics.clustered_mean(values, patients)
    alone = statistics.clustered_mean(values, np.arange(500))
    assert clustered.high - clustered.low > 3 * (alone.high - alone.low)


def test_nan_values_and_missing_patients() -> None:
    found = statistics.clustered_mean([1.0, math.nan, 3.0], ["a", "b", "c"])
    assert (found.value, found.n, found.n_clusters) == (2.0, 2, 2)
    assert math.isnan(statistics.clustered_mean([1.0, 2.0], ["a", "a"]).low)
    nothing = statistics.clustered_mean([math.nan], ["a"])
    assert nothing.n == 0
    assert nothing.as_dict()["value"] is None
    with pytest.raises(UsageError, match="for 2 values"):
        statistics.clustered_mean([1.0, 2.0], ["a"])


def test_auc_is_that_of_scikit_learn_and_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.4
    scores = np.round(truth + rng.normal(0, 1, 300), 1)
    patients = rng.integers(0, 30, 300)
    found = statistics.clustered_auc(scores, truth, patients)
    assert found.value == pytest.approx(roc_auc_score(truth, scores))
    assert found.low < found.value < found.high
    same = statistics.clustered_auc(scores, truth, patients, minus=scores)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    one_class = statistics.clustered_auc(scores, np.ones(300, bool), patients)
    assert math.isnan(one_class.value)


def test_holm_by_hand() -> None:
    assert statistics.holm([0.001, 0.5, 0.02]) == pytest.approx([0.003, 0.5, 0.04])
    assert statistics.holm([]) == []
