"""Split conformal prediction by patient: which classes remain possible, and who is to be referred.

The score of a case of known class is one minus the probability that it was given for that class
(Sadinle, Lei and Wasserman 2019). A class stays possible for a new case where its score is no
larger than the ``ceil((n + 1)(1 - alpha))``-th smallest of n calibration patients. If patients
are exchangeable the true class is among those possible with a probability of at least
``1 - alpha`` (and at most ``1 / (n + 1)`` more, without ties), whatever the model. That holds on
average over patients, not for each class or site, and not for patients from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.evaluation.performance.kept import WHEN_MADE, Kept
from pathology_scaat.evaluation.performance.predictions import EXTERNAL, Prediction
from pathology_scaat.system.rounding import decimals

ALPHA = 0.1
"""Share of patients whose true class may be left out."""
LEAST_PATIENTS = math.ceil(1 / ALPHA) - 1
"""With fewer no class could ever be left out."""
UNLIKE_SHARE = 0.25
"""Share of patches unlike the training data from which a slide is referred."""

KEPT_CAUTION = (
    "the calibration patients are those of the model's own cohort, and also chose the epoch or the "
    "calibration: coverage holds for patients like them, and may be lower elsewhere"
)

TWO, NONE, UNLIKE = (
    "more than one class is possible",
    "no class is as probable as the true one usually is",
    "unlike the training data",
)
"""Why a case is referred."""


def score_limit(scores: NDArray[np.floating], alpha: float = ALPHA) -> float:
    """Largest score of a class that stays possible; infinite where the cases are too few.

    Parameters
    ----------
    scores : (n,)
        One minus the probability of the true class, a calibration patient each.

    Examples
    --------
    >>> score_limit(np.arange(1, 10) / 10)
    0.9
    >>> score_limit(np.arange(1, 9) / 10)
    inf
    """
    rank = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
    return float(np.sort(scores)[rank - 1]) if 0 < rank <= len(scores) else math.inf


def possible_classes(
    probability: NDArray[np.floating], class_names: Sequence[str], limit: float
) -> tuple[str, ...]:
    """Classes whose score is no larger than the limit.

    Parameters
    ----------
    probability : (K,)
        Of one case, in the order of ``class_names``.
    class_names : sequence of str
    limit : float
        Of :func:`score_limit`.

    Examples
    --------
    >>> possible_classes(np.array([0.3, 0.7]), ("a", "b"), 0.5)
    ('b',)
    """
    inside = 1 - np.asarray(probability, np.float64) <= limit + 1e-12
    return tuple(name for name, there in zip(class_names, inside, strict=True) if there)


Key = tuple[str, int | None, str]
"""Patient, fold and split: one prediction of a patient."""


def key_of(row: Prediction) -> Key:
    """Which prediction of a patient a row belongs to."""
    return (row.patient_id, row.fold, row.split)


@dataclass(frozen=True)
class Abstention:
    """Predictions of patients with the classes that remain possible, and how that went.

    Attributes
    ----------
    patients : tuple of Prediction
    record : dict
        For the record: what calibrated it, and on held-out patients the coverage, the share
        that is referred, and the accuracy of the others.
    """

    patients: tuple[Prediction, ...]
    record: dict[str, Any]


def abstain(
    patients: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    *,
    slide_unlike: Mapping[Key, float | None],
    kept: Kept | None = None,
) -> Abstention:
    """Say of each patient which classes remain possible, and whether to refer.

    Calibrated on the validation patients; where each patient was predicted out of fold, on the
    other patients of the cohort.

    Parameters
    ----------
    patients : sequence of Prediction
        With probabilities that are calibrated.
    slide_unlike : mapping to float or None
        Largest share of patches unlike the training data among the slides of each prediction.
    kept : Kept, optional
        What calibration patients left when the model was made: then nobody here calibrates.
    """
    names = list(class_names)
    if kept is not None:
        return _as_kept(patients, names, positive, slide_unlike, kept)
    folds = any(r.fold is not None for r in patients)
    source = "test" if folds else "val"
    known = [r for r in patients if r.split == source and r.label in names]
    scores = true_class_scores(known, names)
    index_of = {(r.patient_id, r.fold): i for i, r in enumerate(known)}
    record: dict[str, Any] = {
        "alpha": ALPHA,
        "calibrated_on": "out-of-fold predictions of the other patients"
        if folds
        else "validation patients",
        "n_calibration": len(scores),
        "caution": None
        if folds
        else "the validation patients also chose the epoch, so that coverage may be a little lower",
    }
    enough = len(scores) - int(folds) >= LEAST_PATIENTS
    if not enough:
        record["not_given"] = (
            f"{len(scores)} patients of known class are too few: no class could be left out at "
            f"{1 - ALPHA:.0%} with fewer than {LEAST_PATIENTS + int(folds)}"
        )
    found = []
    for row in patients:
        mine = index_of.get((row.patient_id, row.fold)) if row.split == source else None
        others = scores if mine is None else np.delete(scores, mine)
        possible = None
        if enough:
            possible = possible_classes(row.probability, names, score_limit(others))
        found.append(_with_referral(row, possible, slide_unlike.get(key_of(row))))
    record["judged"] = _judged(found, names, positive) if enough else {}
    return Abstention(tuple(found), record)


def _as_kept(
    patients: Sequence[Prediction],
    names: Sequence[str],
    positive: str,
    slide_unlike: Mapping[Key, float | None],
    kept: Kept,
) -> Abstention:
    """Patients by the limit that was found when the model was made."""
    referral = kept.choice.referral
    record: dict[str, Any] = {
        "alpha": referral.alpha,
        "calibrated_on": kept.patients_words,
        "n_calibration": referral.n,
        "caution": KEPT_CAUTION,
        "kept_with_model": True,
    }
    limit = referral.limit
    if limit is None:
        record["not_given"] = (
            f"{referral.n} patients of known class {WHEN_MADE[kept.choice.chosen_on]} were too "
            f"few: no class could be left out at {1 - referral.alpha:.0%}"
        )
    found = [
        _with_referral(
            row,
            None if limit is None else possible_classes(row.probability, names, limit),
            slide_unlike.get(key_of(row)),
        )
        for row in patients
    ]
    record["judged"] = {} if limit is None else _judged(found, names, positive)
    return Abstention(tuple(found), record)


def true_class_scores(
    known: Sequence[Prediction], class_names: Sequence[str]
) -> NDArray[np.float64]:
    """One minus the probability of the true class, (n,) of n patients of known class."""
    names = list(class_names)
    return np.array([1 - r.probability[names.index(r.label)] for r in known], np.float64)


def _judged(
    found: Sequence[Prediction], names: Sequence[str], positive: str
) -> dict[str, dict[str, Any]]:
    """How sets and referrals did on patients of known class that calibrated nothing."""
    return {
        split: _coverage([r for r in found if r.split == split and r.label in names], names,
                         positive)
        for split in ("test", EXTERNAL)
        if any(r.split == split and r.label in names for r in found)
    }  # fmt: skip


def _with_referral(
    row: Prediction, possible: tuple[str, ...] | None, unlike: float | None
) -> Prediction:
    reasons = []
    if possible is not None and len(possible) != 1:
        reasons.append(TWO if possible else NONE)
    if unlike is not None and unlike >= UNLIKE_SHARE:
        reasons.append(UNLIKE)
    known = possible is not None or bool(reasons)
    return replace(
        row,
        possible=possible,
        unlike_training=unlike,
        refer=bool(reasons) if known else None,
        refer_reason="; ".join(reasons),
    )


def _coverage(rows: Sequence[Prediction], names: Sequence[str], positive: str) -> dict[str, Any]:
    """What the sets held of patients that calibrated nothing."""
    with_sets = [r for r in rows if r.possible is not None]
    decided = [r for r in rows if r.refer is False]
    return {
        "n": len(with_sets),
        "coverage": _share([r.label in (r.possible or ()) for r in with_sets]),
        "referred": _share([bool(r.refer) for r in with_sets]),
        "accuracy_of_all": _share([r.called(names, positive) == r.label for r in with_sets]),
        "accuracy_where_not_referred": _share(
            [r.called(names, positive) == r.label for r in decided]
        ),
    }


def _share(values: Sequence[bool]) -> float | None:
    return round(float(np.mean(values)), 6) if values else None


def on_slides(
    slides: Sequence[Prediction], patients: Sequence[Prediction]
) -> tuple[Prediction, ...]:
    """Slides with the referral of their patient: it is the patient that is decided about."""
    of = {key_of(p): p for p in patients}
    found = []
    for row in slides:
        patient = of.get(key_of(row))
        if patient is not None:
            row = replace(
                row,
                possible=patient.possible,
                refer=patient.refer,
                refer_reason=patient.refer_reason,
            )
        found.append(row)
    return tuple(found)


def unlike_by_patient(slides: Sequence[Prediction]) -> dict[Key, float | None]:
    """Largest share of patches unlike the training data among the slides of each prediction."""
    found: dict[Key, float | None] = {}
    for row in slides:
        before, mine = found.get(key_of(row)), row.unlike_training
        found[key_of(row)] = mine if before is None else max(before, mine or 0.0)
    return found


def abstention_lines(record: Mapping[str, Any]) -> list[str]:
    """The part of ``performance.md`` about referrals."""
    if not record:
        return []
    lines = ["## Refer to a pathologist", ""]
    if record.get("not_given"):
        return [*lines, f"Not given: {record['not_given']}.", ""]
    lines.append(
        f"Split conformal prediction by patient at {1 - record['alpha']:.0%}, calibrated on "
        f"{record['n_calibration']} {record['calibrated_on']}. A patient is referred where not "
        "exactly one class remains possible, or a quarter of a slide's patches is unlike the "
        "training data."
    )
    if record.get("caution"):
        lines.append(f"Caution: {record['caution']}.")
    lines.append("")
    for split, found in record["judged"].items():
        shown = {k: "not measurable" if found[k] is None else decimals(found[k])
                 for k in found if k != "n"}  # fmt: skip
        lines.append(
            f"- {split} patients ({found['n']}): true class among those possible "
            f"{shown['coverage']}; referred {shown['referred']}; accuracy of all "
            f"{shown['accuracy_of_all']}, where not referred "
            f"{shown['accuracy_where_not_referred']}."
        )
    return [*lines, ""]
