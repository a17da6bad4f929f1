"""Averages over images with intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathology_scaat.errors import UsageError

N_RESAMPLES = 2000

MIN_PATIENTS = 5
"""With fewer, a bootstrap over patients is far too narrow: nothing is concluded from it."""


@dataclass(frozen=True)
class Interval:
    """An estimate with a percentile bootstrap interval; ``n`` images with a value, ``n_clusters``
    patients among them; ``p_value`` two-sided against zero. NaN where nothing could be measured."""

    value: float
    low: float
    high: float
    n: int
    n_clusters: int
    p_value: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v
            for k, v in asdict(self).items()
        }


def _clusters(clusters: Sequence[Any] | NDArray[Any], n: int) -> NDArray[np.int64]:
    if len(clusters) != n:
        raise UsageError("patients", f"are {len(clusters)} for {n} values", "name one a value")
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    return codes.astype(np.int64).ravel()


@lru_cache(maxsize=4)  # a comparison asks for the same draws hundreds of times
def _draws(n_clusters: int, n_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each patient is drawn: (n_resamples, n_clusters)."""
    rng = np.random.default_rng(seed)
    share = np.full(n_clusters, 1 / n_clusters)
    drawn = rng.multinomial(n_clusters, share, size=n_resamples).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def clustered_mean(
    values: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of values with an interval from resampling whole patients.

    Values of one patient are alike: resampling images would make the interval far too narrow.
    NaN values take no part. For a paired comparison give the differences.

    Parameters
    ----------
    values : (N,)
    clusters : (N,)
        Patient of each value.
    n_resamples : int
    confidence : float
    seed : int

    Returns
    -------
    Interval
        The interval is NaN with fewer than two patients.

    Examples
    --------
    >>> found = clustered_mean([1.0, 1.0, 1.0], ["a", "a", "b"])
    >>> found.value, found.low, found.high, found.n, found.n_clusters
    (1.0, 1.0, 1.0, 3, 2)
    """
    data = np.asarray(values, dtype=np.float64).ravel()
    codes = _clusters(clusters, data.size)
    there = ~np.isnan(data)
    data, codes = data[there], codes[there]
    if data.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    _, codes = np.unique(codes, return_inverse=True)
    sums = np.bincount(codes, weights=data)
    counts = np.bincount(codes).astype(np.float64)
    mean = float(data.mean())
    if sums.size < 2:
        return Interval(mean, math.nan, math.nan, int(data.size), 1)
    weights = _draws(sums.size, n_resamples, seed)
    means = (weights @ sums) / (weights @ counts)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    below, above = float(np.mean(means <= 0)), float(np.mean(means >= 0))
    # A bootstrap never shows less than one sample beyond zero.
    p_value = min(1.0, 2 * max(min(below, above), 1 / n_resamples))
    return Interval(mean, float(low), float(high), int(data.size), int(sums.size), float(p_value))


def weighted_auc(
    scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_], weights: NDArray[Any]
) -> float:
    """ROC AUC with a weight for each item, ties counted half; NaN with one class only."""
    return _RankedScores(scores, positive).auc(weights)


class _RankedScores:
    """Scores in order, for the AUC under many weightings."""

    def __init__(self, scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(scores, kind="stable")
        self._ends = np.flatnonzero(np.append(np.diff(scores[self._order]) != 0, True))
        self._positive = positive[self._order]

    def auc(self, weights: NDArray[Any]) -> float:
        ordered = weights[self._order]
        up, down = ordered * self._positive, ordered * ~self._positive
        ups = np.diff(np.cumsum(up)[self._ends], prepend=0.0)
        downs = np.diff(np.cumsum(down)[self._ends], prepend=0.0)
        below = np.cumsum(downs) - downs
        total = float(ups.sum() * downs.sum())
        return float(np.sum(ups * (below + downs / 2)) / total) if total > 0 else math.nan


def clustered_auc(
    scores: ArrayLike,
    positive: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    minus: ArrayLike | None = None,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """ROC AUC with an interval over patients; with ``minus``, the difference of two AUCs.

    Parameters
    ----------
    scores : (N,) or (S, N)
        Of one model, or of S seeds, whose AUCs are averaged within each resample.
    positive : (N,) bool
    clusters : (N,)
    minus : as scores, optional
        Scores of another model on the same items: the result is AUC - AUC(minus), paired.
    n_resamples, confidence, seed

    Examples
    --------
    >>> clustered_auc([0.1, 0.9], [False, True], ["a", "b"]).value
    1.0
    """
    first = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    other = None if minus is None else np.atleast_2d(np.asarray(minus, dtype=np.float64))
    truth = np.asarray(positive, dtype=bool).ravel()
    codes = _clusters(clusters, truth.size)

    own = [_RankedScores(row, truth) for row in first]
    others = [] if other is None else [_RankedScores(row, truth) for row in other]

    def value(weights: NDArray[Any]) -> float:
        auc = float(np.mean([ranked.auc(weights) for ranked in own]))
        if not others:
            return auc
        return auc - float(np.mean([ranked.auc(weights) for ranked in others]))

    if truth.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    n_clusters = int(codes.max()) + 1
    estimate = value(np.ones(truth.size))
    drawn = [value(w[codes]) for w in _draws(n_clusters, n_resamples, seed)]
    kept = np.array([v for v in drawn if not math.isnan(v)])
    if n_clusters < 2 or kept.size < n_resamples // 2:
        return Interval(estimate, math.nan, math.nan, int(truth.size), n_clusters)
    tail = (1 - confidence) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), int(truth.size), n_clusters)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for many comparisons.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(order):
        raised = min(1.0, float(p_values[index]) * (len(p_values) - position))
        largest = max(largest, raised)
        corrected[int(index)] = largest
    return corrected
