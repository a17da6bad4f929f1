"""What is said of several models together: calibrated only what is, and of each its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.pipeline.export import in_words
from pathology_scaat.pipeline.members import (
    FoldModel,
    ModelPredictions,
    combined,
    joint_rule,
    record_of,
)

NAMES = ("Normal", "Tumor")
FITTED = "calibrated on 6 validation slides (Platt)"
NONE = "not calibrated: no validation slide has a label"


def said(model: str, calibration: str) -> ModelPredictions:
    row = Prediction("p", "s", None, "test", "Tumor", np.array([0.2, 0.8]), model=model)
    patches = {"s": np.array([0.1, 0.9], np.float32)}
    return ModelPredictions(
        (row,), NAMES, "Tumor", "a rule", calibration, (model,), True, patches=patches
    )


def test_probabilities_that_are_not_calibrated_are_not_called_so() -> None:
    assert joint_rule([FITTED] * 3) == "the mean of 3 models' calibrated probabilities"
    rule = combined([said("a" * 64, FITTED), said("b" * 64, NONE)]).rule
    assert rule.startswith("the mean of 2 models' probabilities, 1 of them calibrated")
    assert "none of them calibrated" in joint_rule([NONE, NONE])


def test_each_fold_has_its_own_calibration() -> None:
    members = [said("a" * 64, FITTED), said("b" * 64, NONE)]
    folds = [FoldModel(n, Path(str(n)), {}) for n in range(2)]
    assert record_of(members, folds)["calibration"] == f"fold 0: {FITTED}; fold 1: {NONE}"
    assert record_of(members[:1] * 2, folds)["calibration"] == FITTED
    rows = [
        Prediction("p", name, fold, "test", "", np.array([0.0004, 0.9996]), model=name * 16)
        for fold, name in enumerate("ab")
    ]
    words = in_words(rows, NAMES, "", {"a" * 16: FITTED, "b" * 16: NONE})
    assert "Normal 0.0004, Tumor 0.9996" in words["a"].text
    assert "not calibrated" not in words["a"].text
    assert "not calibrated" in words["b"].text
