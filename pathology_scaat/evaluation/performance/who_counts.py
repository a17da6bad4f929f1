"""Which predictions performance is measured on, and what is said of those that are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pathology_scaat.evaluation.performance.predictions import (
    EXTERNAL,
    KNOWN_PATIENT,
    Prediction,
)
from pathology_scaat.system.names import shown_names

NOT_KNOWN = (
    "The model comes from elsewhere, or records its slides under other pseudonyms than these: "
    "whether it was trained on these slides is not known here."
)


@dataclass(frozen=True)
class Chosen:
    """Predictions that are measured, which ones they are, and what is to be said of the choice."""

    rows: tuple[Prediction, ...]
    words: str
    notes: list[str] = field(default_factory=list)


def evaluated(
    rows: Sequence[Prediction], class_names: Sequence[str], known: bool, wanted: bool | None
) -> Chosen:
    """Which predictions count: of patients that the model never saw, where there are any.

    ``wanted`` asks for the external cohort alone (True), or for all but it (False).
    """
    labelled = [
        r for r in rows
        if r.label in class_names and (wanted is None or (r.split == EXTERNAL) == wanted)
    ]  # fmt: skip
    if not known:
        return Chosen(
            tuple(labelled),
            "all labelled slides",
            [NOT_KNOWN, *_known_all_the_same(labelled)],
        )  # fmt: skip
    test = tuple(r for r in labelled if r.split == "test")
    external = tuple(r for r in labelled if r.split == EXTERNAL)
    if len({r.label for r in external}) > 1:
        notes = []
        if test:
            notes.append(f"The {len(test)} test slides of the model's own cohort are not among "
                         "these; predictions.csv has them.")  # fmt: skip
        if any(r.disagreement is not None for r in external):
            notes.append("Predicted by several models together: the mean of their probabilities.")
        return Chosen(external, "external test slides", notes)
    if len({r.label for r in test}) > 1:
        if any(r.fold is not None for r in test):
            n = len({r.fold for r in test})
            return Chosen(test, f"out-of-fold predictions of {n} folds: each slide by a model "
                           "that never saw its patient")  # fmt: skip
        return Chosen(test, "test slides")
    val = tuple(r for r in labelled if r.split == "val")
    if len({r.label for r in val}) > 1:
        return Chosen(
            val,
            "validation slides",
            ["There are no test slides of two classes: these are the slides that chose the epoch, "
             "the threshold and the calibration, so that the figures are optimistic."],
        )  # fmt: skip
    return Chosen((), "no labelled slides of two classes")


def _known_all_the_same(rows: Sequence[Prediction]) -> list[str]:
    """What a model that does not know all of its slides does know."""
    n = sum(r.split in ("train", "val") for r in rows)
    return [f"Of {n} of them it is known that it was trained on them, or chosen by them: the "
            "figures are optimistic."] if n else []  # fmt: skip


def mark_known_patients(rows: Sequence[Prediction]) -> tuple[Prediction, ...]:
    """Slides of patients of whom the model knows another slide, as :data:`KNOWN_PATIENT`.

    A model that was trained on one slide of a patient, or chosen by it, has seen the patient:
    the patient's other slides test nothing, though the model has not seen these.
    """
    known = {(r.patient_id, r.fold) for r in rows if r.split in ("train", "val")}
    return tuple(
        replace(r, split=KNOWN_PATIENT)
        if r.split in ("test", EXTERNAL) and (r.patient_id, r.fold) in known
        else r
        for r in rows
    )


def why_not_measured(slides: Sequence[Prediction]) -> str:
    """Why no performance can be given, in words, where none was measured."""
    labelled = [r for r in slides if r.label]
    if not labelled:
        return "no predicted slide has a label of its own in the table"
    if all(r.split in ("train", KNOWN_PATIENT) for r in labelled):
        return "no slide with a label was held out: the model knows the patients of all of them"
    return "the labels of held-out slides do not name two of the model's classes"


def notes_of_record(rows: Sequence[Prediction]) -> list[str]:
    """Which slides a given model was made with and which it was not, by its own record."""
    seen = [row.slide_id for row in rows if row.split in ("train", "val")]
    n_new = sum(row.split == EXTERNAL for row in rows)
    notes = []
    if seen:
        names = ", ".join(seen[:5]) + (", ..." if len(seen) > 5 else "")
        were, them = (
            ("1 slide was", "it") if len(seen) == 1 else (f"{len(seen)} slides were", "them")
        )
        notes.append(
            f"By the record of the model {were} trained on, or chose its epoch and calibration "
            f"({names}): what it says of {them} tells nothing about new slides."
        )
    if n_new:
        which = f"the {n_new} other slide(s)" if seen else "these slides"
        notes.append(
            f"By the record of the model it was not trained on {which}; whether it was on other "
            "slides of these patients the record does not name."
        )
    return notes


def notes_of_left_out(
    slides: Sequence[Prediction], patients: Sequence[Prediction], class_names: Sequence[str]
) -> list[str]:
    """A sentence for each reason why a slide or a patient with a label is in no figure.

    Parameters
    ----------
    slides : sequence of Prediction
        All of them.
    patients : sequence of Prediction
        Those of the evaluated slides.
    class_names : sequence of str
    """
    notes = []
    strange = Counter(r.label for r in slides if r.label and r.label not in class_names)
    if strange:
        named = shown_names(strange)
        notes.append(
            f"{sum(strange.values())} slide(s) have a label that the model does not know ({named}) "
            f"and count in no figure; it knows {shown_names(class_names)}."
        )
    known = [r for r in slides if r.split == KNOWN_PATIENT]
    if known:
        n = len({r.patient_id for r in known})
        notes.append(
            f"{len(known)} slide(s) of {n} patient(s) count in no figure: the model was trained "
            "on other slides of the same patients, or chosen by them."
        )
    undecided = [p for p in patients if p.label not in class_names]
    if undecided:
        notes.append(
            f"{len(undecided)} patient(s) have slides of different classes: with more than two "
            "classes such a patient has none, and counts in the figures of slides alone."
        )
    return notes
