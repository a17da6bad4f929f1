"""Calibration from few slides: what a handful of cases says is not certain."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pathology_scaat.metrics.functional.calibration import softmax

_LOG_RANGE = (math.log(0.05), math.log(20.0))


def slide_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Temperature for logits of slides, aimed at Platt's (1999) targets instead of 0 and 1.

    A class of n slides can be certain to (n + 1) / (n + 2) only: without that a few slides
    that are all right give probabilities of 0 and 1, whatever the model's logits.

    Parameters
    ----------
    logits : (n, K)
    labels : (n,)
        Of two classes at least.

    Examples
    --------
    >>> logits = np.array([[4.0, 0.0], [0.0, 4.0]] * 3)
    >>> round(float(softmax(logits / slide_temperature(logits, np.array([0, 1] * 3)))[0, 0]), 2)
    0.8
    """
    found = minimize_scalar(
        lambda log_t: smoothed_loss(logits / math.exp(log_t), labels),
        bounds=_LOG_RANGE,
        method="bounded",
    )
    return float(math.exp(found.x))


def smoothed_loss(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Cross-entropy against Platt's targets, in nats: lowest for what few slides can support."""
    counts = np.bincount(labels)
    spread = 1 / (int(counts[counts > 0].min()) + 2)
    n_classes = logits.shape[1]
    target = np.full(logits.shape, spread / max(n_classes - 1, 1))
    target[np.arange(len(labels)), labels] = 1 - spread
    logs = np.log(np.maximum(softmax(np.asarray(logits, np.float64)), 1e-300))
    return float(-(target * logs).sum(axis=1).mean())
