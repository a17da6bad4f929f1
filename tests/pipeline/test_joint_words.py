"""What is said of several models together: calibrated only what is, and of each its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from saliency_fixtures import RunFolder

from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.metrics.functional.calibration import TEMPERATURES
from pathology_scaat.pipeline.cross_validation import nothing_learnt_in_folds
from pathology_scaat.pipeline.export import in_words
from pathology_scaat.pipeline.members import (
    FoldModel,
    ModelPredictions,
    combined,
    joint_rule,
    record_of,
)
from pathology_scaat.pipeline.slide_calibration import calibrated_words
from pathology_scaat.training.bags.config import BagHeadConfig
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.bundle_quality import Estimate, HeldOut

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


@pytest.mark.parametrize("bound", TEMPERATURES)
def test_a_temperature_that_ended_at_its_bound_calibrates_nothing(bound: float) -> None:
    """Training said so, and tables, pages and cards called the same model calibrated."""
    config = BundleConfig(
        class_names=NAMES, positive_class="Tumor", patch_size_px=32, mpp=0.5,
        backbone="scaat-small", mean=(0.5,) * 3, std=(0.2,) * 3, bag=BagHeadConfig(),
        temperature=bound, metrics={"val_slide_auc": 0.5},
    )  # fmt: skip
    fitted = config.model_copy(update={"temperature": 1.7})
    assert (config.is_calibrated, fitted.is_calibrated) == (False, True)
    facts = ModelFacts.of_json(config.facts(""), "f" * 64)
    assert facts.calibration.startswith("not calibrated: the temperature ended at its ")
    assert ModelFacts.of_json(fitted.facts(""), "f" * 64).calibration == "calibrated"
    said_of = calibrated_words(config, None)
    assert said_of.startswith("not calibrated: on the validation slides the temperature ended at")
    assert joint_rule([said_of, FITTED]).endswith("1 of them calibrated")
    assert calibrated_words(fitted, None).endswith("(temperature 1.7)")


def test_folds_none_of_which_has_learnt_are_no_success(run_folder: RunFolder) -> None:
    """Exit code and JSON of a run go by it; that one fold has not is told among the notes."""
    nothing = HeldOut(
        source="validation slides", n_patches=32, n_slides=2, n_patients=2, unit="block",
        n_units=8, class_counts={"Normal": 16, "tumour": 16}, auc=Estimate(value=0.5),
        balanced_accuracy=Estimate(value=0.5), chance=0.5, probability_span=0.9,
    )  # fmt: skip
    out = run_folder.out / "folds"
    run_folder.save_model(out / "silent", 0, held_out=nothing)
    run_folder.save_model(out / "good", 1)
    silent, good = (FoldModel(n, out / name, {}) for n, name in enumerate(("silent", "good")))
    assert nothing_learnt_in_folds([silent, good]) == ""
    why = nothing_learnt_in_folds([silent, silent])
    assert why.startswith("no model of any fold: its balanced accuracy")
