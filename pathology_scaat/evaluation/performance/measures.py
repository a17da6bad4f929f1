"""Clinical measures of a binary prediction, under many weightings of its cases at once.

Every function takes ``weights`` (R, n): how often each case counts in each of R resamples. A
row of ones is the estimate itself, so that estimates and intervals come from the same lines.
All return (R,) float64, NaN where a resample lacks what the measure needs (a class, a call).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ECE_BINS = 10


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Elementwise quotient, NaN where nothing is divided by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(bottom > 0, top / bottom, np.nan), np.float64)


def _ranked(scores: Floats, positive: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives at each distinct score, from low to high."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    ordered = weights[:, order]
    up = np.add.reduceat(ordered * positive[order], starts, axis=1)
    down = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    return up, down


def auroc(scores: Floats, positive: Bools, weights: Floats) -> Floats:
    """Area under the ROC curve, ties counted half: (R,) in [0, 1].

    Parameters
    ----------
    scores : (n,)
        The higher, the more likely positive.
    positive : (n,) bool
    weights : (R, n)

    Examples
    --------
    >>> auroc(np.array([0.1, 0.4, 0.3]), np.array([False, True, True]), np.ones((1, 3)))
    array([1.])
    """
    up, down = _ranked(scores, positive, weights)
    below = np.cumsum(down, axis=1) - down
    return _ratio((up * (below + down / 2)).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))


def auprc(scores: Floats, positive: Bools, weights: Floats) -> Floats:
    """Average precision, (R,) in [0, 1]: the area under the precision-recall steps.

    Chance is the prevalence. Arguments as in :func:`auroc`.
    """
    up, down = _ranked(scores, positive, weights)
    hits = np.cumsum(up[:, ::-1], axis=1)
    seen = hits + np.cumsum(down[:, ::-1], axis=1)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    total = up.sum(axis=1)
    return np.where(
        down.sum(axis=1) > 0, _ratio((up[:, ::-1] * precision).sum(axis=1), total), np.nan
    )


def sensitivity(called: Bools, positive: Bools, weights: Floats) -> Floats:
    """Share of the positive cases that are called positive, (R,); ``called`` is (n,) bool."""
    return _ratio(weights @ (called & positive), weights @ positive.astype(np.float64))


def specificity(called: Bools, positive: Bools, weights: Floats) -> Floats:
    """Share of the negative cases that are not called positive, (R,); ``called`` is (n,) bool."""
    return _ratio(weights @ (~called & ~positive), weights @ (~positive).astype(np.float64))


def accuracy(called: Bools, positive: Bools, weights: Floats) -> Floats:
    """Share of the cases that are called as they are, (R,); ``called`` is (n,) bool."""
    return _ratio(weights @ (called == positive), weights.sum(axis=1))


def predictive_values(
    sens: Floats, spec: Floats, prevalence: float | Floats
) -> tuple[Floats, Floats]:
    """Positive and negative predictive value at a prevalence, by Bayes' rule; (R,) each.

    ``sens`` and ``spec`` are (R,) in [0, 1]; the prevalence is one number or (R,).

    Examples
    --------
    >>> ppv, npv = predictive_values(np.array([0.9]), np.array([0.9]), 0.1)
    >>> ppv.round(3), npv.round(3)
    (array([0.5]), array([0.988]))
    """
    p = np.asarray(prevalence, np.float64)
    true_positive, true_negative = sens * p, spec * (1 - p)
    ppv = _ratio(true_positive, true_positive + (1 - spec) * (1 - p))
    npv = _ratio(true_negative, true_negative + (1 - sens) * p)
    return ppv, npv


def brier(probability: Floats, positive: Bools, weights: Floats) -> Floats:
    """Mean squared distance of the probability (n,) from what is the case, (R,) in [0, 1].

    ``positive`` is (n,) bool.
    """
    return _ratio(weights @ (probability - positive) ** 2, weights.sum(axis=1))


def expected_calibration_error(probability: Floats, positive: Bools, weights: Floats) -> Floats:
    """Mean distance of probability and frequency over bins of equal width (Naeini 2015), (R,).

    ``probability`` is (n,), of the positive class; there are :data:`ECE_BINS` bins, each of which
    holds its lower edge.
    """
    bin_index = np.clip((probability * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)
    gap = np.zeros(len(weights))
    for number in range(ECE_BINS):
        inside = bin_index == number
        if inside.any():
            gap += np.abs(weights[:, inside] @ (positive[inside] - probability[inside]))
    return _ratio(gap, weights.sum(axis=1))


def quadratic_kappa(called: NDArray[np.int64], grade: NDArray[np.int64], weights: Floats) -> Floats:
    """Cohen's kappa of grades 0, 1, 2, ... (n,), a disagreement weighted by its square; (R,).

    1 less the mean squared distance of call and truth over that of calls and truths paired by
    chance; NaN where all calls and all truths are one grade.

    Examples
    --------
    >>> quadratic_kappa(np.array([0, 1, 2]), np.array([0, 1, 2]), np.ones((1, 3)))
    array([1.])
    """
    a, b = called.astype(np.float64), grade.astype(np.float64)
    total = weights.sum(axis=1)
    observed = weights @ (a - b) ** 2 * total
    expected = (weights @ a**2 + weights @ b**2) * total - 2 * (weights @ a) * (weights @ b)
    return 1 - _ratio(observed, expected)


def mean_absolute_error(
    called: NDArray[np.int64], grade: NDArray[np.int64], weights: Floats
) -> Floats:
    """Mean distance of the called grade (n,) from the true one (n,), in grades: (R,), 0 or more."""
    return _ratio(weights @ np.abs(called - grade).astype(np.float64), weights.sum(axis=1))


def net_benefit(probability: Floats, positive: Bools, threshold: float) -> float:
    """Net benefit of treating from a probability on (Vickers and Elkin 2006), per case.

    ``probability`` and ``positive`` are (n,), the threshold is in [0, 1); every case counts once.
    """
    called = probability >= threshold
    odds = threshold / (1 - threshold)
    return float((called & positive).mean() - (called & ~positive).mean() * odds)


def youden_threshold(probability: Floats, positive: Bools) -> float | None:
    """The threshold with the greatest sensitivity + specificity; None with one class only.

    ``probability`` and ``positive`` are (n,). Half way between the two scores that it parts; of
    several equally good ones the middle one.

    Examples
    --------
    >>> youden_threshold(np.array([0.1, 0.2, 0.6, 0.8]), np.array([False, False, True, True]))
    0.4
    """
    if positive.all() or not positive.any():
        return None
    values = np.unique(probability)
    cuts = np.concatenate([[values[0]], (values[:-1] + values[1:]) / 2])
    called = probability[None, :] >= cuts[:, None]
    gain = (called & positive).sum(axis=1) / positive.sum() - (called & ~positive).sum(axis=1) / (
        ~positive
    ).sum()
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])
