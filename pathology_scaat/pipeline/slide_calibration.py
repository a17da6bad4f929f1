"""How scores of whole slides become probabilities, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pathology_scaat.evaluation.performance.aggregate import Calibration, fit_calibration
from pathology_scaat.evaluation.performance.kept import can_choose
from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.metrics.functional.calibration import temperature_words
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.decision import Decision

MADE_THEN = ", when the model was made"


def fit_of(
    config: BundleConfig, rows: Sequence[Prediction], decision: Decision | None
) -> Calibration | None:
    """What calibrates a patch model's slide scores; None for a model for bags, which is.

    Its validation slides do, where two classes of them are here, else what is kept of them.
    """
    if config.bag is not None:
        return None
    names = config.class_names
    kept = None if decision is None else decision.calibration
    if kept is not None and not can_choose(rows, names):
        return Calibration(kept.slope, kept.intercept, f"{kept.text}{MADE_THEN}")
    val = [r for r in rows if r.split == "val" and r.label in names]
    if not val:
        return Calibration(text="not calibrated: no validation slide has a label")
    return fit_calibration(
        np.stack([r.probability for r in val]), np.array([names.index(r.label) for r in val])
    )


def calibrated_words(config: BundleConfig, fit: Calibration | None) -> str:
    """Whether a model's probabilities of slides are calibrated, and on what."""
    if fit is not None:
        return fit.text
    if "val_slide_auc" not in config.metrics:  # they held no two classes
        return "not calibrated: no validation slides of two classes"
    return temperature_words(config.temperature, "the validation slides")
