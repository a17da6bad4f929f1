"""Calling cases: thresholds, how slides become patients, referrals; and what cases chose of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pathology_scaat.evaluation.performance.conformal import (
    ALPHA,
    Abstention,
    abstain,
    on_slides,
    score_limit,
    true_class_scores,
    unlike_by_patient,
)
from pathology_scaat.evaluation.performance.kept import OWN_CASES_USED, Kept, can_choose
from pathology_scaat.evaluation.performance.levels import (
    DEFAULT_THRESHOLD,
    chosen_threshold,
    with_thresholds,
)
from pathology_scaat.evaluation.performance.predictions import (
    KEPT_RULES,
    Prediction,
    by_patient,
    patient_rule,
    slides_differ,
)
from pathology_scaat.training.decision import Choice, KeptReferral, KeptThreshold


@dataclass(frozen=True)
class Called:
    """Predictions with thresholds and referrals, and where these come from.

    Attributes
    ----------
    slides : tuple of Prediction
    abstained : Abstention
        The patients, and the record of referrals.
    thresholds : dict
        Of slides and of patients, and where they come from.
    patient_rule : str
        How slides became patients, in words.
    source : str
        ``model`` where all this was chosen when the model was made, ``table`` where cases here
        chose it, ``nothing`` where none could.
    notes : tuple of str
        What is to be said of the choice where something was, or could be, kept with the model.
    """

    slides: tuple[Prediction, ...]
    abstained: Abstention
    thresholds: dict[str, dict[str, Any]]
    patient_rule: str
    source: Literal["model", "table", "nothing"]
    notes: tuple[str, ...] = ()

    @property
    def fell_back(self) -> bool:
        """Whether any threshold of slides is the default, for want of validation cases."""
        return any("nothing" in v["chosen_on"] for v in self.thresholds["slide"].get("values", ()))

    @property
    def uncalled(self) -> tuple[str, ...]:
        """How cases are called and whether any is referred, where no performance tells it."""
        notes = list(self.notes)
        if self.source == "model":
            return tuple(notes)
        if self.fell_back:
            notes.append(
                f"Cases are called from a probability of {DEFAULT_THRESHOLD} on: no validation "
                "cases of both classes are in this table, and no threshold is kept with the model."
            )
        if why := self.abstained.record.get("not_given"):
            notes.append(
                f"Nobody is referred for want of certainty, and no class is ruled out: {why}."
            )
        return tuple(notes)

    @property
    def record(self) -> dict[str, Any]:
        """For ``predictions.json``: by what cases were called and referred."""
        referral = {k: v for k, v in self.abstained.record.items() if k != "judged"}
        return {
            "source": self.source,
            "thresholds": self.thresholds,
            "referral": referral,
            "patient_rule": self.patient_rule,
            "notes": list(self.notes),
        }


def call(
    rows: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    kept: Choice | None = None,
) -> Called:
    """Call slides and patients, and say who is to be referred.

    By the validation cases among the rows; where they choose nothing, as ``kept`` says, which was
    chosen when the model was made. Labels of other cases choose nothing.
    """
    own = can_choose(rows, class_names)
    notes = (OWN_CASES_USED,) if own and kept is not None else ()
    by = None if own or kept is None else Kept(kept)
    largest = None if by is None else by.choice.patient_rule == "largest"
    slides, of_slides = with_thresholds(rows, class_names, positive, by, "slide")
    patients, of_patients = with_thresholds(
        by_patient(rows, class_names, positive, largest), class_names, positive, by, "patient"
    )
    abstained = abstain(
        patients, class_names, positive, slide_unlike=unlike_by_patient(rows), kept=by
    )
    return Called(
        on_slides(slides, abstained.patients),
        abstained,
        {"slide": of_slides, "patient": of_patients},
        patient_rule(rows, class_names) if by is None else KEPT_RULES[by.choice.patient_rule],
        "model" if by is not None else ("table" if own else "nothing"),
        notes if by is None else by.notes(),
    )


def called_slides(
    rows: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    kept: Choice | None = None,
) -> tuple[Prediction, ...]:
    """Predictions of slides with threshold, possible classes and referral; nothing is measured."""
    return call(rows, class_names, positive, kept).slides


def choices(
    rows: Sequence[Prediction], class_names: Sequence[str], positive: str
) -> Mapping[int | None, Choice]:
    """What the validation cases of each model chose, to be kept with it: by fold.

    Of folds None stands for all their models together, of which the out-of-fold predictions
    choose. A model whose validation slides hold one class has chosen nothing.

    Parameters
    ----------
    rows : sequence of Prediction
        Of slides, of all splits, with calibrated probabilities.
    """
    largest = len(class_names) == 2 and slides_differ(rows)
    patients = by_patient(rows, class_names, positive, largest)
    folds = sorted({r.fold for r in rows if r.fold is not None})
    found: dict[int | None, Choice] = {}
    for fold in (*folds, None):
        together = bool(folds) and fold is None
        of_slides, of_patients = (
            [r for r in of if r.label in class_names and _chooses(r, fold, together)]
            for of in (rows, patients)
        )
        if len({r.label for r in of_slides}) < 2:
            continue
        limit = score_limit(true_class_scores(of_patients, class_names))
        found[fold] = Choice(
            chosen_on="out-of-fold" if together else "validation",
            slide=_threshold(of_slides, class_names, positive),
            patient=_threshold(of_patients, class_names, positive),
            referral=KeptReferral(
                alpha=ALPHA, n=len(of_patients), limit=limit if math.isfinite(limit) else None
            ),
            patient_rule="largest" if largest else "mean",
        )
    return found


def _chooses(row: Prediction, fold: int | None, together: bool) -> bool:
    if together:
        return row.fold is not None and row.split == "test"
    return row.fold == fold and row.split == "val"


def _threshold(
    cases: Sequence[Prediction], class_names: Sequence[str], positive: str
) -> KeptThreshold | None:
    value = chosen_threshold(cases, class_names, positive) if len(class_names) == 2 else None
    return None if value is None else KeptThreshold(threshold=value, n=len(cases))
