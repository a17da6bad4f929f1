"""How a trained head does on the validation bags: calibration, figures, and whether it learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pathology_scaat.metrics.classification import scores as class_scores
from pathology_scaat.metrics.functional.calibration import (
    fit_temperature,
    temperature_problem,
    temperature_words,
)
from pathology_scaat.metrics.functional.survival import concordance
from pathology_scaat.system.rounding import decimals
from pathology_scaat.training.bundle_quality import HeldOut, nothing_learnt_warning
from pathology_scaat.training.heads.config import Target, Unit
from pathology_scaat.training.heads.data import FeatureBag, FeatureReader, labels_of, outcomes_of
from pathology_scaat.training.heads.model import FeatureHead
from pathology_scaat.training.held_out import measure_held_out_slides


@dataclass(frozen=True)
class Judgement:
    """What the validation bags say of a head.

    Attributes
    ----------
    metrics : dict
        ``val_auc``... or ``val_c_index``; nothing without validation bags.
    temperature : float
        Divides the logits; 1 where nothing calibrates.
    calibration : str
        How it was calibrated, in words.
    median_risk : float or None
        Of survival: the median log hazard of the training patients.
    notes : tuple of str
    nothing_learnt : str
        Why the head is no better than guessing; empty where it is better, or not known.
    """

    calibration: str
    metrics: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    median_risk: float | None = None
    notes: tuple[str, ...] = ()
    nothing_learnt: str = ""


@torch.no_grad()
def scores_of(model: FeatureHead, reader: FeatureReader, bags: Sequence[FeatureBag]) -> Tensor:
    """Scores (n, O) of whole bags, O outputs each; the model is left in evaluation mode."""
    model.eval()
    return torch.stack([model.scores(reader.read(b)) for b in bags])


@torch.no_grad()
def judge_classes(
    model: FeatureHead,
    reader: FeatureReader,
    val: Sequence[FeatureBag],
    target: Target,
    unit: Unit,
    seed: int,
) -> Judgement:
    """Calibrate a head of classes or grades on the validation bags, and measure it there."""
    if not val:
        return Judgement(
            "not calibrated: there are no validation slides",
            notes=(
                "There are no validation slides: the probabilities are not calibrated, and the "
                "last epoch is kept.",
            ),
        )
    logits = model.logits(scores_of(model, reader, val)).numpy()
    labels = labels_of(val, target)
    notes = []
    temperature = 1.0
    if len(np.unique(labels)) > 1:
        temperature = fit_temperature(logits, labels, smoothed=True)
        calibration = temperature_words(temperature, "the validation bags")
        notes += [problem] if (problem := temperature_problem(temperature)) else []
    else:
        calibration = "not calibrated: no validation bags of two classes"
        notes.append(
            "The validation slides hold one class only: the probabilities are not calibrated."
        )
    held = measure_held_out_slides(
        logits, labels, temperature, [b.patient_id for b in val],
        sum(b.n_patches for b in val), target.names, seed=seed,
    )  # fmt: skip
    notes.append(_quality(held, unit))
    return Judgement(
        calibration,
        {f"val_{k}": float(v) for k, v in class_scores(logits, labels).items()},
        temperature,
        notes=(*notes, *_nothing_learnt_notes(held.nothing_learnt)),
        nothing_learnt=held.nothing_learnt,
    )


@torch.no_grad()
def judge_survival(
    model: FeatureHead,
    reader: FeatureReader,
    train: Sequence[FeatureBag],
    val: Sequence[FeatureBag],
) -> Judgement:
    """Median log hazard of the training patients, and the C-index on the validation patients."""
    median = float(scores_of(model, reader, train)[:, 0].median())
    calibration = "a log hazard: it orders patients, and is no probability"
    if not val:
        return Judgement(
            calibration,
            median_risk=median,
            notes=("There are no validation patients: the last epoch is kept.",),
        )
    time, event = outcomes_of(val)
    own = scores_of(model, reader, val)[:, 0].numpy().astype(np.float64)
    value = float(concordance(own, time.numpy(), event.numpy() > 0.5)[0])
    if not math.isfinite(value):
        return Judgement(
            calibration,
            median_risk=median,
            notes=("No two validation patients can be compared: the C-index is unknown.",),
        )
    quality_note = (
        f"C-index on the {len(val)} validation patients ({int(event.sum())} events), "
        f"by which the epoch was chosen: {decimals(value)}."
    )
    silent = ""
    if value <= 0.5:
        silent = f"its C-index on the validation patients is {decimals(value)}; guessing gives 0.5"
    return Judgement(
        calibration,
        {"val_c_index": value},
        median_risk=median,
        notes=(quality_note, *_nothing_learnt_notes(silent)),
        nothing_learnt=silent,
    )


def _quality(held: HeldOut, unit: Unit) -> str:
    """The figures as a sentence; a bag of all slides of a patient is not called a slide."""
    text = held.text()
    if unit == "patient" and held.auc is not None and held.balanced_accuracy is not None:
        text = (
            f"on the {held.n_patients} validation patients (one bag each), by which the epoch was "
            f"chosen: AUC {held.auc.text()}, balanced accuracy {held.balanced_accuracy.text()}"
        )
    return f"{text[0].upper()}{text[1:]}." if text.startswith("quality") else f"Quality {text}."


def _nothing_learnt_notes(why: str) -> tuple[str, ...]:
    return (nothing_learnt_warning(why),) if why else ()
