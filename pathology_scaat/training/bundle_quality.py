"""How good a model is on tissue that it was not trained on, as its bundle records it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.system.rounding import decimals

NOTHING_LEARNT = "THIS MODEL HAS LEARNT NOTHING THAT CAN BE RELIED ON"
QUALITY_NOT_KNOWN = "NOT KNOWN HOW GOOD THIS MODEL IS"
COPIED_LABELS = "copied labels"
OF_PAINTED_SLIDES = "learnt from painted slides (scaat demo), not from patients' tissue"
LEARNT_FROM_PAINTED = f"The model {OF_PAINTED_SLIDES}."
"""A note of the training, kept in the bundle also where no quality is known."""
PAINTED_SLIDES = "PAINTED SLIDES"
READ_FIRST = (NOTHING_LEARNT, PAINTED_SLIDES)
HARDLY_VARIES = 0.05
"""Span of the calibrated probability (5th to 95th percentile) below which a model says the same
of everything."""


def nothing_learnt_warning(why: str) -> str:
    """That a model has learnt nothing, and ``why``, as a sentence; empty where it has learnt."""
    return f"{NOTHING_LEARNT}: {why}." if why else ""


def silent_note(nothing_learnt: str, fold: int | None, number: int, n_models: int) -> str:
    """That a model has learnt nothing, and which of several it is; empty where it has learnt.

    Parameters
    ----------
    nothing_learnt : str
        Why; empty where it has.
    fold : int or None
        Fold of cross-validation, where it is of one.
    number, n_models : int
        Its place among those that were given, from 1, and how many there are.
    """
    warning = nothing_learnt_warning(nothing_learnt)
    if not warning or (fold is None and n_models == 1):
        return warning
    return f"{f'model {number} of {n_models}' if fold is None else f'fold {fold}'}: {warning}"


def painted_note(n_painted: int, n_slides: int) -> str:
    """That slides which figures are of were painted, and show no tissue; empty where none was."""
    if not n_painted:
        return ""
    which = "All" if n_painted == n_slides else f"{n_painted:,} of the {n_slides:,}"
    was = "was" if n_painted == 1 and n_painted != n_slides else "were"
    return (
        f"{PAINTED_SLIDES}: {which} slides that were measured {was} painted by 'scaat demo' and "
        "show no patient's tissue; the figures say nothing of real slides."
    )


def read_first(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes that no figure is to be read without.

    They say that a model has learnt nothing, or that slides were painted.
    """
    return tuple(note for note in notes if any(mark in note for mark in READ_FIRST))


def read_first_marks(notes: Iterable[str]) -> list[str]:
    """What :func:`read_first` says, in the few words that a figure has room for."""
    first = read_first(notes)
    return [mark for mark in READ_FIRST if any(mark in note for note in first)]


class Estimate(BaseModel):
    """A measure with its 95 % interval; without one where it could not be had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float | None = None
    high: float | None = None

    def text(self) -> str:
        """``0.95 (0.91 to 0.98)``."""
        if self.low is None or self.high is None:
            return f"{decimals(self.value, 2)} (no interval)"
        return f"{decimals(self.value, 2)} ({decimals(self.low, 2)} to {decimals(self.high, 2)})"


class HeldOut(BaseModel):
    """How the model does on labelled tissue that it was not trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["test slides", "validation slides", "blocks of the training slides"] = Field(
        description="what was held out; only test slides took no part in choosing the epoch"
    )
    n_patches: int = Field(ge=0)
    n_slides: int = Field(ge=0)
    n_patients: int = Field(ge=0)
    unit: Literal["patient", "slide", "block", "patch"] = Field(
        description="what intervals were resampled by: the largest of which there are five"
    )
    n_units: int = Field(ge=0)
    class_counts: dict[str, int] = Field(description="patches of each class, or slides")
    auc: Estimate | None = Field(None, description="mean over classes, each against the rest")
    balanced_accuracy: Estimate | None = None
    chance: float = Field(description="balanced accuracy of a constant prediction")
    probability_span: float = Field(
        ge=0, le=1, description="5th to 95th percentile of the calibrated probability, widest class"
    )
    judged: Literal["slides", "copied labels"] | None = Field(
        None,
        description="what the figures count where it is whole slides and not patches; 'copied "
        "labels' where patches were judged by the labels of their slides",
    )

    n_copied: int = Field(
        0,
        ge=0,
        description="patches that were held out too and count in no figure, for their label is "
        "their slide's, copied onto every patch",
    )

    painted: bool = Field(
        False,
        description="whether it learnt from slides that scaat demo painted: then nothing here "
        "speaks of tissue",
    )

    @property
    def nothing_learnt(self) -> str:
        """Why the model counts as having learnt nothing, in words; empty where it has.

        Labels copied from slides are wrong for many patches: a model that finds every tumour
        does little better than guessing by them. So they decide nothing.
        """
        accuracy = None if self.judged == COPIED_LABELS else self.balanced_accuracy
        if accuracy is not None:
            low = accuracy.value if accuracy.low is None else accuracy.low
            if low <= self.chance + 1e-9:
                return (
                    f"its balanced accuracy on held-out tissue is {accuracy.text()}; "
                    f"guessing gives {self.chance:.2f}"
                )
        if self.n_patches and self.probability_span < HARDLY_VARIES:
            return (
                "its probabilities hardly vary: they span "
                f"{decimals(self.probability_span)} over held-out tissue"
            )
        return ""

    def text(self) -> str:
        """One sentence for pages, figures and the terminal."""
        said = self._text_of_figures()
        return f"{OF_PAINTED_SLIDES}; {said}" if self.painted else said

    def _text_of_figures(self) -> str:
        if self.judged == "slides":
            return self._text_of_slides()
        if self.auc is None or self.balanced_accuracy is None:
            return (
                f"quality unknown: the held-out tissue ({self.n_patches} patches of "
                f"{self.source}) does not hold two classes"
            )
        if self.judged == COPIED_LABELS:
            return (
                f"quality of patches unknown: those of {self.source} ({self.n_patches:,}) were "
                "judged by the labels of their slides, which are wrong for many of them (AUC "
                f"{self.auc.text()} by these labels)"
            )
        plural = {"patch": "patches", "block": "blocks of neighbouring patches"}
        by = f"{self.n_units} {plural.get(self.unit, self.unit + 's')}"
        if self.unit != "patient":
            one = self.n_patients == 1
            by += f", too narrow since they are of {self.n_patients} patient{'' if one else 's'}"
        patches = f"{self.n_patches:,} patches"
        if self.n_copied:
            patches += f", without {self.n_copied:,} that have their slide's label copied onto them"
        return (
            f"on {self.source} ({patches}; 95 % interval over {by}): "
            f"AUC {self.auc.text()}, balanced accuracy {self.balanced_accuracy.text()}"
            f"{self._unmeasured('held-out patch')}"
        )

    def _unmeasured(self, what: str) -> str:
        """Classes that no figure speaks of, since nothing of them was held out."""
        absent = [name for name, count in self.class_counts.items() if not count]
        if not absent:
            return ""
        return f" (over the other classes: no {what} is of {', '.join(absent)})"

    def _text_of_slides(self) -> str:
        """The sentence where whole slides are told apart."""
        shown = f"{self.n_slides} slide{'' if self.n_slides == 1 else 's'}"
        if self.auc is None or self.balanced_accuracy is None:
            return f"quality unknown: the {self.source} ({shown}) do not hold two classes"
        by = f"{self.n_patients} patient{'' if self.n_patients == 1 else 's'}"
        return (
            f"on {self.source}, by which the epoch was chosen ({shown} of {by}; 95 % interval over "
            f"patients), whole slides: AUC {self.auc.text()}, balanced accuracy "
            f"{self.balanced_accuracy.text()}{self._unmeasured('held-out slide')}"
        )
