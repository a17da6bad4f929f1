"""What was chosen when a model was made, in use on other cases: and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.system.rounding import significant
from pathology_scaat.training.decision import Choice

WHEN_MADE = {
    "validation": "that validated the model when it was made",
    "out-of-fold": "that models of the folds had not seen when they were made",
}
OWN_CASES_USED = (
    "Threshold and referrals are by the labelled validation slides in this table; what is kept "
    "with the model was not used."
)


@dataclass(frozen=True)
class Kept:
    """What is kept with the model, or with the models that predict together."""

    choice: Choice

    def cases_words(self, unit: Literal["slide", "patient"]) -> str:
        """The cases that chose, in words: ``validation patients when the model was made``."""
        if self.choice.chosen_on == "validation":
            return f"validation {unit}s when the model was made"
        return f"out-of-fold predictions of {unit}s when the models were made"

    @property
    def patients_words(self) -> str:
        """The patients that calibrated referrals, in words."""
        return self.cases_words("patient")

    def notes(self) -> tuple[str, ...]:
        """What is used of it, in sentences."""
        told = []
        units: tuple[Literal["patient", "slide"], ...] = ("patient", "slide")
        for unit in units:
            own = self.choice.threshold_of(unit)
            if own is not None:
                told.append(
                    f"Threshold {significant(own.threshold, 4)} of {unit}s, chosen on {own.n} "
                    f"{self.cases_words(unit)}."
                )
        referral = self.choice.referral
        if referral.limit is None:
            told.append(
                "Nobody is referred for want of certainty, and no class is ruled out: "
                f"{referral.n} {self.patients_words} were too few."
            )
        else:
            told.append(
                f"Referrals at {1 - referral.alpha:.0%}, calibrated on {referral.n} "
                f"{self.patients_words}: that holds for patients like them."
            )
        if self.choice.patient_rule == "largest":
            told.append(
                "Of every patient the slide with the largest probability of the positive class "
                "counts, as when the model was made."
            )
        return tuple(told)


def can_choose(rows: Sequence[Prediction], class_names: Sequence[str]) -> bool:
    """Whether slides here choose threshold and referrals themselves: what is kept then rests.

    They do where two classes occur among the labelled validation slides of the model, and where
    models of folds predict the cohort that they were made of.
    """
    if any(row.fold is not None for row in rows):
        return True
    return len({r.label for r in rows if r.split == "val" and r.label in class_names}) > 1
