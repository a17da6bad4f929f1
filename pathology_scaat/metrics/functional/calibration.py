"""Temperature and calibration: does a probability mean what it says?

Shapes: ``logits`` (N, K) float, ``labels`` (N,) int, or (N, K) of 0 and 1 for several labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

TEMPERATURES = (math.exp(-4.0), math.exp(4.0))
"""Least and largest temperature that is fitted: 1/55 to 55."""

_GOLDEN = (math.sqrt(5) - 1) / 2
_ITERATIONS = 60


def softmax(logits: FloatArray) -> NDArray[np.float64]:
    """Class probabilities of logits (N, K), (N, K) float64; each row sums to 1."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers: NDArray[np.float64] = np.exp(shifted)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def sigmoid(logits: FloatArray) -> NDArray[np.float64]:
    """Elementwise 1 / (1 + exp(-x)) of logits of any shape, float64, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))


def mean_loss(logits: FloatArray, labels: NDArray[Any]) -> float:
    """Mean cross-entropy in nats.

    Parameters
    ----------
    logits : (N, K)
    labels : (N,) int or (N, K) of 0 and 1
        Two axes: several labels per image, whose binary cross-entropies are summed.
    """
    z = logits.astype(np.float64)
    if labels.ndim == 2:
        soft = np.maximum(z, 0) - z * labels + np.log1p(np.exp(-np.abs(z)))
        return float(soft.sum(axis=1).mean())
    top = z.max(axis=1)
    log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    return float((log_sum - z[np.arange(len(z)), labels]).mean())


def balanced_loss(logits: FloatArray, labels: NDArray[Any]) -> float:
    """Mean over the classes of their mean cross-entropy, in nats.

    Arguments are those of :func:`mean_loss`, logits (N, K) and labels (N,), whose value it is for
    several labels per image. A prediction that is the same for every patch cannot be better than
    log K, whatever the share of the classes.
    """
    if labels.ndim == 2:
        return mean_loss(logits, labels)
    present = np.unique(labels)
    return float(np.mean([mean_loss(logits[labels == k], labels[labels == k]) for k in present]))


def _best_temperature(cost: Callable[[float], float]) -> float:
    """Golden-section search over log T within :data:`TEMPERATURES`: there is one minimum."""
    low, high = (math.log(t) for t in TEMPERATURES)
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    cost_a, cost_b = cost(math.exp(a)), cost(math.exp(b))
    for _ in range(_ITERATIONS):
        if cost_a <= cost_b:
            high, b, cost_b = b, a, cost_a
            a = high - _GOLDEN * (high - low)
            cost_a = cost(math.exp(a))
        else:
            low, a, cost_a = a, b, cost_b
            b = low + _GOLDEN * (high - low)
            cost_b = cost(math.exp(b))
    return math.exp((low + high) / 2)


def fit_temperature(logits: FloatArray, labels: NDArray[Any], *, smoothed: bool = False) -> float:
    """Temperature T that minimises the cross-entropy of logits / T (Guo et al. 2017).

    The loss is convex in 1/T: a golden-section search over log T finds it without a step size.

    Parameters
    ----------
    logits : ndarray, (N, K)
        Of validation images.
    labels : ndarray, (N,) int or (N, K)
    smoothed : bool
        Aim at Platt's (1999) targets instead of 0 and 1: what a class of n patches says can be
        certain to (n + 1) / (n + 2) only. Without it a few patches that are all right give
        probabilities of 0 and 1. For (N,) labels.

    Returns
    -------
    float
        1 where there is nothing to fit on; kept within :data:`TEMPERATURES`. Ask
        :func:`temperature_problem` whether it ended at one of them.

    Examples
    --------
    >>> round(fit_temperature(np.array([[0.0, 4.0]] * 4), np.array([1, 1, 1, 0])), 2)
    3.64
    """
    if len(logits) == 0:
        return 1.0
    if not smoothed:
        return _best_temperature(lambda t: mean_loss(logits / t, labels))
    return _best_temperature(lambda t: smoothed_loss(logits / t, labels))


def smoothed_loss(logits: FloatArray, labels: NDArray[Any]) -> float:
    """Cross-entropy against Platt's targets, in nats: lowest for what few cases can support.

    Logits are (N, K), labels (N,) int. A class of which the rarest has n cases is aimed at with (n
    + 1) / (n + 2), not with 1.

    Examples
    --------
    >>> sure, unsure = np.array([[9.0, 0.0], [0.0, 9.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> smoothed_loss(unsure, np.array([0, 1])) < smoothed_loss(sure, np.array([0, 1]))
    True
    """
    return float(smoothed_losses(logits, labels).mean())


def smoothed_losses(logits: FloatArray, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Cross-entropy of each case against Platt's targets, (N,), in nats: see `smoothed_loss`."""
    smallest = min(int(np.sum(labels == k)) for k in np.unique(labels))
    spread = 1 / (smallest + 2)
    z = logits.astype(np.float64)
    top = z.max(axis=1)
    log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    mine = z[np.arange(len(z)), labels]
    others = (z.sum(axis=1) - mine) / max(z.shape[1] - 1, 1)
    losses: NDArray[np.float64] = log_sum - (1 - spread) * mine - spread * others
    return losses


def calibrated_loss(logits: FloatArray, labels: NDArray[Any], most: int = 20_000) -> float:
    """Balanced loss at the temperature that suits it best: what ranks the epochs of a training.

    In nats; logits are (N, K), labels (N,) int or (N, K) of 0 and 1 (whose value is that of
    :func:`mean_loss`). Overconfidence, which one number mends, costs nothing; a constant prediction
    gets log K. Beyond ``most`` patches, as many evenly spread ones are looked at.
    """
    if labels.ndim == 2:
        return mean_loss(logits, labels)
    if len(labels) > most:
        some = np.linspace(0, len(labels) - 1, most).astype(np.int64)
        logits, labels = logits[some], labels[some]
    return balanced_loss(
        logits / _best_temperature(lambda t: balanced_loss(logits / t, labels)), labels
    )


def ended_at(temperature: float) -> str | None:
    """The bound at which the fit of a temperature ended, in words; None where it is a minimum.

    Examples
    --------
    >>> ended_at(1.7)
    >>> ended_at(TEMPERATURES[1])
    'its upper bound (55)'
    """
    least, largest = TEMPERATURES
    if temperature >= largest * (1 - 1e-3):
        return f"its upper bound ({largest:.0f})"
    if temperature <= least * (1 + 1e-3):
        return f"its lower bound (1/{1 / least:.0f})"
    return None


def temperature_words(temperature: float, on: str) -> str:
    """Whether a temperature that was fitted ``on`` something calibrates, in words.

    Examples
    --------
    >>> temperature_words(1.75, "the validation slides")
    'calibrated on the validation slides (temperature 1.75)'
    >>> temperature_words(TEMPERATURES[1], "the validation slides")
    'not calibrated: on the validation slides the temperature ended at its upper bound (55)'
    """
    if (bound := ended_at(temperature)) is not None:
        return f"not calibrated: on {on} the temperature ended at {bound}"
    return f"calibrated on {on} (temperature {temperature:.3g})"


def temperature_problem(temperature: float) -> str | None:
    """Why a fitted temperature calibrates nothing, in words; None where it is a minimum.

    Examples
    --------
    >>> temperature_problem(1.7)
    >>> temperature_problem(TEMPERATURES[1])[:46]
    'The temperature ended at its upper bound (55):'
    """
    bound = ended_at(temperature)
    if bound is None:
        return None
    if temperature > 1:
        return (
            f"The temperature ended at {bound}: the validation labels do not follow the "
            "predictions at all, and the probabilities are not calibrated."
        )
    return (
        f"The temperature ended at {bound}: every validation label is predicted rightly, so that "
        "nothing shows how sure is too sure, and the probabilities are not calibrated."
    )


def calibration_error(confidence: FloatArray, correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015) over equally wide bins, 0 to 1.

    ``confidence`` is (N,) in [0, 1], ``correct`` (N,). A bin holds its upper edge: ``(0, 1/15],
    (1/15, 2/15], ...``. NaN without any prediction.

    Examples
    --------
    >>> calibration_error(np.array([1.0, 1.0]), np.array([True, False]))
    0.5
    """
    if len(confidence) == 0:
        return math.nan
    sure = np.asarray(confidence, dtype=np.float64)
    bin_index = np.clip(np.ceil(sure * bins), 1, bins).astype(np.int64) - 1
    gap = np.bincount(
        bin_index, weights=np.asarray(correct, dtype=np.float64) - sure, minlength=bins
    )
    return float(np.abs(gap).sum() / len(sure))


def expected_calibration_error(logits: FloatArray, labels: NDArray[Any], n_bins: int = 15) -> float:
    """Expected calibration error of the most probable class, 0 to 1; NaN without images.

    ``logits`` are (N, K), ``labels`` (N,); confidences fall into ``n_bins`` equal bins.

    Examples
    --------
    >>> expected_calibration_error(np.array([[0.0, 50.0]] * 2), np.array([1, 0]))
    0.5
    """
    if len(logits) == 0:
        return math.nan
    probability = softmax(logits)
    return calibration_error(probability.max(axis=1), probability.argmax(axis=1) == labels, n_bins)
