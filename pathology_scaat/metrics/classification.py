"""How well predictions fit labels; small, exact, on numpy arrays.

Shapes: ``logits`` (N, K) float, ``labels`` (N,) int, or (N, K) of 0 and 1 for several labels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.metrics.functional.calibration import (
    calibration_error,
    mean_loss,
    sigmoid,
    softmax,
)
from pathology_scaat.metrics.functional.roc import roc_auc

FloatArray = NDArray[np.floating[Any]]


def macro_auc(probability: FloatArray, labels: NDArray[Any]) -> float:
    """Mean of each class's AUC against the rest, over the classes that can be scored.

    Parameters
    ----------
    probability : (N, K)
    labels : (N,) int or (N, K) of 0 and 1

    Returns
    -------
    float
        0 to 1; with two classes and (N,) labels the AUC of class 1. NaN where no class can be
        scored.
    """
    columns = range(probability.shape[1])
    if labels.ndim == 2:
        values = [roc_auc(probability[:, k], labels[:, k] > 0.5) for k in columns]
    elif probability.shape[1] == 2:
        return roc_auc(probability[:, 1], labels == 1)
    else:
        values = [roc_auc(probability[:, k], labels == k) for k in columns]
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def scores(logits: FloatArray, labels: NDArray[Any]) -> dict[str, float]:
    """AUC, accuracy, balanced accuracy, loss and calibration error; NaN is left out.

    Parameters
    ----------
    logits : (N, K)
    labels : (N,) int or (N, K) of 0 and 1
        With (N, K) a balanced accuracy is not among them.

    Returns
    -------
    dict of str to float
        ``auc``, ``accuracy``, ``balanced_accuracy`` and ``ece`` in [0, 1], ``loss`` in nats.
    """
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
