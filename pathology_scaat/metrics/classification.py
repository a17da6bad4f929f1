"""How well predictions fit labels; small, exact, on numpy arrays.

Shapes: ``logits`` (N, K) float, ``labels`` (N,) int, or (N, K) of 0 and 1 for several labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


def softmax(logits: FloatArray) -> NDArray[np.float64]:
    """Class probabilities, (N, K) float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers: NDArray[np.float64] = np.exp(shifted)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def sigmoid(logits: FloatArray) -> NDArray[np.float64]:
    """Elementwise probabilities, float64, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))


def binary_auc(scores: FloatArray, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half (Mann and Whitney); NaN with one class only."""
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = ends - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def macro_auc(probability: FloatArray, labels: NDArray[Any]) -> float:
    """Mean of each class's AUC against the rest, over the classes that can be scored."""
    columns = range(probability.shape[1])
    if labels.ndim == 2:
        values = [binary_auc(probability[:, k], labels[:, k] > 0.5) for k in columns]
    elif probability.shape[1] == 2:
        return binary_auc(probability[:, 1], labels == 1)
    else:
        values = [binary_auc(probability[:, k], labels == k) for k in columns]
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def calibration_error(confidence: FloatArray, correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over equal-width bins, 0 to 1."""
    place = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    total = 0.0
    for b in range(bins):
        inside = place == b
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return float(total)


def mean_loss(logits: FloatArray, labels: NDArray[Any]) -> float:
    """Mean cross-entropy (summed binary cross-entropy for several labels), in nats."""
    z = logits.astype(np.float64)
    if labels.ndim == 2:
        soft = np.maximum(z, 0) - z * labels + np.log1p(np.exp(-np.abs(z)))
        return float(soft.sum(axis=1).mean())
    top = z.max(axis=1)
    log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    return float((log_sum - z[np.arange(len(z)), labels]).mean())


def balanced_loss(logits: FloatArray, labels: NDArray[Any]) -> float:
    """Mean over the classes of their mean cross-entropy, in nats.

    A prediction that is the same for every patch cannot be better than log K, whatever the
    share of the classes.
    """
    if labels.ndim == 2:
        return mean_loss(logits, labels)
    present = np.unique(labels)
    return float(np.mean([mean_loss(logits[labels == k], labels[labels == k]) for k in present]))


def _best_temperature(cost: Callable[[float], float]) -> float:
    """Golden-section search over log T, 0.05 to 20: the loss has one minimum there."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.05), math.log(20.0)
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    cost_a, cost_b = cost(math.exp(a)), cost(math.exp(b))
    for _ in range(60):
        if cost_a < cost_b:
            high, b, cost_b = b, a, cost_a
            a = high - ratio * (high - low)
            cost_a = cost(math.exp(a))
        else:
            low, a, cost_a = a, b, cost_b
            b = low + ratio * (high - low)
            cost_b = cost(math.exp(b))
    return math.exp((low + high) / 2)


def fit_temperature(logits: FloatArray, labels: NDArray[Any], *, smoothed: bool = False) -> float:
    """Temperature that minimises the loss of ``logits / T`` (Guo et al. 2017), 0.05 to 20.

    Parameters
    ----------
    logits : (N, K)
    labels : (N,) int
    smoothed : bool
        Aim at Platt's (1999) targets instead of 0 and 1: what a class of n patches says can be
        certain to (n + 1) / (n + 2) only. Without it a few patches that are all right give
        probabilities of 0 and 1.
    """
    if not smoothed:
        return _best_temperature(lambda t: mean_loss(logits / t, labels))
    smallest = min(int(np.sum(labels == k)) for k in np.unique(labels))
    spread = 1 / (smallest + 2)

    def cost(t: float) -> float:
        z = logits.astype(np.float64) / t
        top = z.max(axis=1)
        log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
        mine = z[np.arange(len(z)), labels]
        others = (z.sum(axis=1) - mine) / max(z.shape[1] - 1, 1)
        return float((log_sum - (1 - spread) * mine - spread * others).mean())

    return _best_temperature(cost)


def calibrated_loss(logits: FloatArray, labels: NDArray[Any], most: int = 20_000) -> float:
    """Balanced loss at the temperature that suits it best: what ranks the epochs of a training.

    Overconfidence, which one number mends, costs nothing; a constant prediction gets log K.
    Beyond ``most`` patches, as many evenly spread ones are looked at.
    """
    if labels.ndim == 2:
        return mean_loss(logits, labels)
    if len(labels) > most:
        some = np.linspace(0, len(labels) - 1, most).astype(np.int64)
        logits, labels = logits[some], labels[some]
    return balanced_loss(
        logits / _best_temperature(lambda t: balanced_loss(logits / t, labels)), labels
    )


def scores(logits: FloatArray, labels: NDArray[Any]) -> dict[str, float]:
    """AUC, accuracy, balanced accuracy, loss and calibration error; NaN is left out."""
    if labels.ndim == 2:
        probability = sigmoid(logits)
        correct = (probability > 0.5) == (labels > 0.5)
        values = {
            "auc": macro_auc(probability, labels),
            "accuracy": float(correct.mean()),
            "loss": mean_loss(logits, labels),
            "ece": calibration_error(np.maximum(probability, 1 - probability).ravel(),
                                     correct.ravel()),
        }  # fmt: skip
    else:
        probability = softmax(logits)
        guess = probability.argmax(axis=1)
        correct = guess == labels
        recalls = [correct[labels == k].mean() for k in np.unique(labels)]
        values = {
            "auc": macro_auc(probability, labels),
            "accuracy": float(correct.mean()),
            "balanced_accuracy": float(np.mean(recalls)),
            "loss": mean_loss(logits, labels),
            "ece": calibration_error(probability.max(axis=1), correct),
        }
    return {name: value for name, value in values.items() if math.isfinite(value)}
