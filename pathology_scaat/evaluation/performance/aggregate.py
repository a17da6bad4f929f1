"""A slide's probability from a model that was trained on patches: a stated rule, calibrated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.metrics.functional.calibration import (
    fit_temperature,
    softmax,
    temperature_words,
)
from pathology_scaat.metrics.functional.slide_score import PATCH_RULE, top_mean

__all__ = ["MIN_SLIDES", "PATCH_RULE", "Calibration", "fit_calibration", "top_mean"]

MIN_SLIDES = 3
"""Validation slides of each class from which a calibration is fitted."""


@dataclass(frozen=True)
class Calibration:
    """How scores of slides become probabilities: fitted on the validation slides.

    With two classes ``slope`` and ``intercept`` of the log odds of class 1 (Platt 1999); with
    more, ``slope`` is one over the temperature of the log scores.
    """

    slope: float = 1.0
    intercept: float = 0.0
    text: str = "not calibrated"

    def apply(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, K) scores in [0, 1] to (n, K) probabilities; each row of these sums to 1."""
        logs = np.log(np.clip(scores, 1e-6, 1))
        if scores.shape[1] == 2:
            odds = self.slope * (logs[:, 1] - logs[:, 0]) + self.intercept
            logs = np.stack([np.zeros_like(odds), odds], axis=1)
        else:
            logs = logs * self.slope
        return softmax(logs)


def fit_calibration(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """Calibrate slide scores (n, K) on slides of known class (n,).

    Too few slides are not fitted to: with fewer than :data:`MIN_SLIDES` of a class the scores
    stay as they are, and the text says so.
    """
    n_classes = scores.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    if counts.min() < MIN_SLIDES:
        shown = ", ".join(map(str, counts.tolist()))
        return Calibration(
            text=f"not calibrated: the validation slides are too few (by class: {shown})"
        )
    logs = np.log(np.clip(scores, 1e-6, 1))
    on = f"{len(labels)} validation slides"
    if n_classes > 2:
        temperature = fit_temperature(logs, labels, smoothed=True)
        words = temperature_words(temperature, on)
        return Calibration(1 / temperature, 0.0, words)
    odds = logs[:, 1] - logs[:, 0]
    # Platt's targets: what a few slides say is not certain.
    target = np.where(labels == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))

    def loss(x: NDArray[np.float64]) -> float:
        z = math.exp(x[0]) * odds + x[1]  # a slope above zero: calibration keeps the order
        return float((np.logaddexp(0, z) - target * z).sum())

    # Imported where it is used: it takes half a second, and most runs have nothing to fit.
    from scipy.optimize import minimize

    found = minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return Calibration(math.exp(found[0]), float(found[1]), f"calibrated on {on} (Platt)")
