"""Performance of one set of predictions: of slides, or of patients; all measures at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.evaluation.performance import measures as m
from pathology_scaat.evaluation.performance.bootstrap import MIN_PATIENTS, Estimate, intervals
from pathology_scaat.evaluation.performance.kept import Kept
from pathology_scaat.evaluation.performance.predictions import Prediction

DEFAULT_THRESHOLD = 0.5
CALIBRATION_GROUPS = 5
DECISION_THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))


@dataclass(frozen=True)
class Level:
    """Measures of predictions of one kind (slides, or patients).

    Attributes
    ----------
    estimates : dict of str to Estimate
        Measures by their field names: ``auroc``, ``sensitivity``, ...
    confusion : dict of str to dict
        Counts by true, then by predicted class.
    calibration : list of dict
        Mean probability and frequency of the positive class in groups of equal size.
    decision_curve : list of dict
        Net benefit of the model, of treating all; none is 0.
    no_intervals : str
        Why there are none; empty where there are.
    """

    n: int
    n_patients: int
    counts: dict[str, int]
    prevalence: float | None
    estimates: dict[str, Estimate]
    confusion: dict[str, dict[str, int]]
    calibration: list[dict[str, float]] = field(default_factory=list)
    decision_curve: list[dict[str, float]] = field(default_factory=list)
    no_intervals: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "n": self.n,
            "n_patients": self.n_patients,
            "counts": self.counts,
            "prevalence_for_predictive_values": self.prevalence,
            **{name: estimate.value for name, estimate in self.estimates.items()},
            "intervals_95": {
                name: None if e.low is None else [e.low, e.high]
                for name, e in self.estimates.items()
            },
            "no_intervals": self.no_intervals,
            "confusion": self.confusion,
            "calibration": self.calibration,
            "decision_curve": self.decision_curve,
        }


def measure_level(
    rows: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    *,
    prevalence: float | None = None,
    n_resamples: int | None = None,
    seed: int = 0,
    ordered: bool = False,
) -> Level | None:
    """All measures of some predictions; None where fewer than two classes occur.

    Parameters
    ----------
    rows : sequence of Prediction
        Those without a label, or with one that is no class, take no part.
    class_names : sequence of str
        Columns of the probabilities.
    positive : str
        The class that sensitivity and the like speak of.
    prevalence : float, optional
        At which predictive values are given; that of the rows by default.
    n_resamples : int, optional
        Of the bootstrap over patients; 0 gives no intervals.
    seed : int
    ordered : bool
        Whether the classes are grades, from lowest to highest: how far calls are off is measured
        too.
    """
    names = list(class_names)
    kept = [row for row in rows if row.label in names]
    labels = np.array([names.index(row.label) for row in kept], np.int64)
    if len(np.unique(labels)) < 2:
        return None
    probability = np.stack([row.probability for row in kept])
    called = np.array([names.index(row.called(names, positive)) for row in kept], np.int64)
    patients = [row.patient_id for row in kept]
    at = names.index(positive)
    if prevalence is None:
        prevalence = float((labels == at).mean())
    few = {
        names[k]: n
        for k in np.unique(labels)
        if (n := len({p for p, label in zip(patients, labels, strict=True) if label == k}))
        < MIN_PATIENTS
    }
    options = {} if n_resamples is None else {"n_resamples": n_resamples}
    measured = _binary if len(names) == 2 else _multiclass

    def measures(weights: m.Floats) -> dict[str, m.Floats]:
        found = measured(probability, labels, called, at, names, prevalence, weights)
        if ordered:
            found["quadratic_kappa"] = m.quadratic_kappa(called, labels, weights)
            found["mean_absolute_error"] = m.mean_absolute_error(called, labels, weights)
        return found

    estimates = intervals(
        measures,
        patients,
        with_intervals=not few and n_resamples != 0,
        seed=seed,
        **options,
    )
    is_positive = labels == at
    return Level(
        n=len(kept),
        n_patients=len(set(patients)),
        counts={name: int((labels == k).sum()) for k, name in enumerate(names)},
        prevalence=prevalence if len(names) == 2 else None,
        estimates=estimates,
        confusion={
            true: {
                guess: int(((labels == i) & (called == j)).sum()) for j, guess in enumerate(names)
            }
            for i, true in enumerate(names)
        },
        calibration=_calibration(probability[:, at], is_positive),
        decision_curve=_decision_curve(probability[:, at], is_positive),
        no_intervals=_few_words(few),
    )


def _few_words(few: dict[str, int]) -> str:
    """Why there are no intervals; empty where the classes have patients enough."""
    if not few:
        return ""
    told = ", ".join(f"{n} of {name}" for name, n in few.items())
    return f"fewer than {MIN_PATIENTS} patients of a class ({told})"


def _binary(
    probability: m.Floats,
    labels: NDArray[np.int64],
    called: NDArray[np.int64],
    at: int,
    names: Sequence[str],
    prevalence: float,
    weights: m.Floats,
) -> dict[str, m.Floats]:
    score, positive, yes = probability[:, at], labels == at, called == at
    sens = m.sensitivity(yes, positive, weights)
    spec = m.specificity(yes, positive, weights)
    ppv, npv = m.predictive_values(sens, spec, prevalence)
    return {
        "auroc": m.auroc(score, positive, weights),
        "auprc": m.auprc(score, positive, weights),
        "balanced_accuracy": (sens + spec) / 2,
        "sensitivity": sens,
        "specificity": spec,
        "ppv": ppv,
        "npv": npv,
        "accuracy": m.accuracy(yes, positive, weights),
        "brier": m.brier(score, positive, weights),
        "ece": m.expected_calibration_error(score, positive, weights),
    }


def _multiclass(
    probability: m.Floats,
    labels: NDArray[np.int64],
    called: NDArray[np.int64],
    at: int,
    names: Sequence[str],
    prevalence: float,
    weights: m.Floats,
) -> dict[str, m.Floats]:
    """Means over the classes that occur (macro), and each class against the rest."""
    found: dict[str, m.Floats] = {}
    present = [k for k in range(len(names)) if (labels == k).any()]
    single: dict[str, list[m.Floats]] = {}
    for k in present:
        positive, yes = labels == k, called == k
        own = {
            "auroc": m.auroc(probability[:, k], positive, weights),
            "auprc": m.auprc(probability[:, k], positive, weights),
            "sensitivity": m.sensitivity(yes, positive, weights),
            "specificity": m.specificity(yes, positive, weights),
        }
        for name, value in own.items():
            single.setdefault(name, []).append(value)
            found[f"{name}: {names[k]}"] = value
    macro = {name: np.mean(values, axis=0) for name, values in single.items()}
    right = called == labels
    truth = labels[:, None] == np.arange(len(names))
    total = weights.sum(axis=1)
    confident = probability.max(axis=1)
    top_right = probability.argmax(axis=1) == labels
    return {
        "auroc": macro["auroc"],
        "auprc": macro["auprc"],
        "balanced_accuracy": macro["sensitivity"],
        "sensitivity": macro["sensitivity"],
        "specificity": macro["specificity"],
        "accuracy": weights @ right / total,
        "brier": weights @ ((probability - truth) ** 2).sum(axis=1) / total,
        "ece": m.expected_calibration_error(confident, top_right, weights),
        **found,
    }


def _calibration(probability: m.Floats, positive: m.Bools) -> list[dict[str, float]]:
    order = np.argsort(probability, kind="stable")
    return [
        {
            "mean_probability": float(probability[group].mean()),
            "frequency": float(positive[group].mean()),
            "n": len(group),
        }
        for group in np.array_split(order, min(CALIBRATION_GROUPS, len(order)))
    ]


def _decision_curve(probability: m.Floats, positive: m.Bools) -> list[dict[str, float]]:
    all_treated = np.ones(len(positive))
    return [
        {
            "threshold": threshold,
            "net_benefit": m.net_benefit(probability, positive, threshold),
            "treat_all": m.net_benefit(all_treated, positive, threshold),
        }
        for threshold in DECISION_THRESHOLDS
    ]


def choosing_rows(
    rows: Sequence[Prediction], class_names: Sequence[str], fold: int | None
) -> tuple[list[Prediction], str]:
    """The cases of known class that choose a threshold for a fold's model, and what they are.

    Of ``fold`` None the validation cases of the one model; where there is none, and several fold
    models speak together, what each of them never saw.
    """
    val = [r for r in rows if r.fold == fold and r.split == "val" and r.label in class_names]
    if fold is not None or val:
        return val, "validation cases"
    unseen = [r for r in rows if r.fold is not None and r.split == "test"
              and r.label in class_names]  # fmt: skip
    return unseen, "out-of-fold predictions"


def chosen_threshold(
    chosen_by: Sequence[Prediction], class_names: Sequence[str], positive: str
) -> float | None:
    """The threshold of two classes that these cases choose; None where they hold not both."""
    if not chosen_by:
        return None
    at = list(class_names).index(positive)
    return m.youden_threshold(
        np.array([r.probability[at] for r in chosen_by]),
        np.array([r.label == positive for r in chosen_by], bool),
    )


def with_thresholds(
    rows: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    kept: Kept | None = None,
    unit: Literal["slide", "patient"] = "slide",
) -> tuple[tuple[Prediction, ...], dict[str, Any]]:
    """Give each prediction the threshold that the validation cases of its model chose.

    Parameters
    ----------
    rows, class_names, positive
    kept : Kept, optional
        What was chosen when the model was made: then no case here chooses anything.
    unit : str
        What the rows are, of which the kept threshold is.

    Returns
    -------
    predictions, dict
        And what is to be said of the thresholds: by fold, their value and whence it comes.
    """
    if len(class_names) != 2:
        return tuple(rows), {"rule": "the likeliest class is predicted"}
    chosen: dict[int | None, float] = {}
    record: dict[str, Any] = {
        "rule": "greatest sensitivity + specificity (Youden)",
        "values": [],
    }
    for fold in sorted({row.fold for row in rows}, key=lambda f: -1 if f is None else f):
        if kept is not None:
            own = kept.choice.threshold_of(unit)
            found, n = (None, 0) if own is None else (own.threshold, own.n)
            words = kept.cases_words(unit)
        else:
            val, words = choosing_rows(rows, class_names, fold)
            found, n = chosen_threshold(val, class_names, positive), len(val)
        chosen[fold] = DEFAULT_THRESHOLD if found is None else found
        record["values"].append(
            {
                "fold": fold,
                "threshold": chosen[fold],
                "n_validation": n,
                "chosen_on": words if found is not None else
                "nothing: the validation cases do not hold both classes",
                "kept_with_model": kept is not None and found is not None,
            }
        )  # fmt: skip
    return tuple(replace(r, threshold=chosen[r.fold]) for r in rows), record
