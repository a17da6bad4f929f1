"""Intervals over seeds and patients."""

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


def test_the_seed_is_part_of_the_interval() -> None:
    """The reviewed fault: seeds that go either way, averaged, looked like a sure gain."""
    rng = np.random.default_rng(0)
    gains = np.array([0.037, -0.009, 0.047])[:, None] + rng.normal(0, 0.01, (3, 53))
    found = statistics.clustered_mean(gains, np.arange(53))
    assert found.low < 0 < found.high
    assert found.n_seeds == 3
    assert not found.can_judge, "fewer than five seeds"
    many = statistics.clustered_mean(rng.normal(0.03, 0.01, (5, 53)), np.arange(53))
    assert many.can_judge
    assert many.low > 0


def test_p_value_and_interval_agree() -> None:
    rng = np.random.default_rng(0)
    for n_seeds in (1, 2, 3, 6):
        for shift in np.linspace(0, 0.6, 7):
            values = rng.normal(shift, 0.3, (n_seeds, 12)) + rng.normal(0, 0.2, (n_seeds, 1))
            found = statistics.clustered_mean(values, np.arange(12))
            assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_one_seed_is_students_t_over_patients() -> None:
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(0).normal(0.3, 1.0, 12)
    found = statistics.clustered_mean(values, np.arange(12))
    truth = ttest_1samp(values, 0)
    low, high = truth.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(truth.pvalue, rel=1e-6)


def test_standard_error_of_an_auc_is_that_of_delong() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.4
    scores = truth + rng.normal(0, 1, 200)
    found = statistics.clustered_auc(scores, truth, np.arange(200))
    up = (scores[truth][:, None] > scores[~truth]).astype(float)
    variance = up.mean(1).var(ddof=1) / truth.sum() + up.mean(0).var(ddof=1) / (~truth).sum()
    assert (found.high - found.low) / 2 == pytest.approx(1.972 * np.sqrt(variance), rel=0.01)


def test_holm_by_hand() -> None:
    assert statistics.holm([0.001, 0.5, 0.02]) == pytest.approx([0.003, 0.5, 0.04])
    assert statistics.holm([]) == []


def test_an_auc_that_nobody_contradicts_has_no_interval() -> None:
    truth = np.arange(12) % 2 == 0
    patients = np.arange(12) // 2
    for scores, value in ((truth.astype(float), 1.0), (1.0 - truth, 0.0)):
        found = statistics.clustered_auc(scores, truth, patients)
        assert found.value == value
        assert math.isnan(found.low)
        assert math.isnan(found.p_value)


def test_no_p_value_is_zero() -> None:
    alike = statistics.clustered_mean(np.full((5, 6), 0.25), np.arange(6))
    assert 0 < alike.p_value <= 1e-12
