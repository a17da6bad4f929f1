"""``performance.json``, ``.csv``, ``.md``: what a paper's table of results is made of."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.evaluation.performance.bootstrap import MIN_PATIENTS, N_RESAMPLES
from pathology_scaat.evaluation.performance.calling import call
from pathology_scaat.evaluation.performance.headings import NO_PREDICTIVE_VALUES, SEVERAL_CLASSES
from pathology_scaat.evaluation.performance.levels import Level, measure_level
from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.evaluation.performance.subgroups import (
    Subgroup,
    measure_subgroups,
)
from pathology_scaat.evaluation.performance.who_counts import (
    evaluated,
    mark_known_patients,
    notes_of_left_out,
)
from pathology_scaat.training.bundle_quality import painted_note, read_first
from pathology_scaat.training.decision import Choice

SCHEMA_NAME = "pathology_scaat.performance"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Performance:
    """How well the slides and patients of a cohort were told apart.

    Attributes
    ----------
    evaluated_on : str
        What the predictions are of, in words.
    slide, patient : Level
        Patients are the primary level: what is reported first.
    folds : dict of int to Level
        Slides of each fold that has two classes by themselves; intervals over its own patients.
    thresholds : dict
        Of slides and of patients, and where they come from.
    notes : tuple of str
        What a reader must know, in sentences.
    abstention : mapping
        Conformal prediction: what calibrated it, and how it did on held-out patients.
    subgroups : tuple of Subgroup
        The same patients by columns of the manifest.
    fold_counts : mapping of int to (mapping of class to int)
        Slides of each class in each fold, also of those that hold one class and are not in
        ``folds``.
    fold_patients : mapping of int to Level
        As ``folds``, of patients.
    patient_rule : str
        How slides became patients.
    """

    class_names: tuple[str, ...]
    positive_class: str
    evaluated_on: str
    slide: Level
    patient: Level
    folds: dict[int, Level]
    thresholds: dict[str, Any]
    how: Mapping[str, Any]
    predictions_fingerprint: str
    slide_rows: tuple[Prediction, ...]
    patient_rows: tuple[Prediction, ...]
    notes: tuple[str, ...] = ()
    abstention: Mapping[str, Any] = field(default_factory=dict)
    subgroups: tuple[Subgroup, ...] = ()
    tests_before: int = 0
    fold_counts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    fold_patients: Mapping[int, Level] = field(default_factory=dict)
    patient_rule: str = ""

    def after_looks(self, n: int) -> Performance:
        """The same, with how often these cases were looked at before with other predictions."""
        return replace(self, tests_before=n)

    @property
    def read_first(self) -> tuple[str, ...]:
        """Notes that no figure is to be read without: of nothing learnt, of painted slides."""
        return read_first(self.notes)

    @property
    def mean_of_folds(self) -> dict[str, Any] | None:
        """Mean and standard deviation of the AUROC of patients over the folds that have one;
        None of fewer than two."""
        found = [level.estimates["auroc"].value for level in self.fold_patients.values()]
        values = [value for value in found if value is not None]
        if len(values) < 2:
            return None
        auroc = {"mean": statistics.mean(values), "standard_deviation": statistics.stdev(values)}
        return {"unit": "patient", "n_folds": len(values), "auroc": auroc}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the measures of patients also stand at the top."""
        top = self.patient.as_dict()
        return {
            "schema": SCHEMA_NAME,
            "schema_version": SCHEMA_VERSION,
            "evaluated_on": self.evaluated_on,
            "unit": "patient",
            "class_names": list(self.class_names),
            "positive_class": self.positive_class,
            **{k: v for k, v in top.items() if k not in ("calibration", "decision_curve")},
            "levels": {"patient": top, "slide": self.slide.as_dict()},
            "folds": {
                str(fold): {
                    "n": sum(counts.values()),
                    "counts": dict(counts),
                    "measurable": fold in self.folds,
                    **(_fold_figures(self.folds[fold]) if fold in self.folds else {}),
                    "patient": _patients_of_fold(self.fold_patients.get(fold)),
                }
                for fold, counts in self.fold_counts.items()
            },
            "mean_of_folds": self.mean_of_folds,
            "thresholds": self.thresholds,
            "intervals": f"95 %, percentiles of {N_RESAMPLES} bootstrap samples of patients; none "
            f"with fewer than {MIN_PATIENTS} patients of a class, or where all samples agree",
            "patient_rule": self.patient_rule,
            "prediction": dict(self.how),
            "abstention": dict(self.abstention),
            "subgroups": {
                column: {g.value: g.as_dict() for g in self.subgroups if g.column == column}
                for column in dict.fromkeys(g.column for g in self.subgroups)
            },
            "predictions_fingerprint": self.predictions_fingerprint,
            "earlier_looks_at_these_cases": self.tests_before,
            "notes": list(self.notes),
            "read_first": list(self.read_first),
        }


def _patients_of_fold(level: Level | None) -> dict[str, Any]:
    if level is None:
        return {"measurable": False}
    return {"measurable": True, "n": level.n, "counts": level.counts, **_fold_figures(level)}


def _fold_figures(level: Level) -> dict[str, Any]:
    """Values of a fold by their names, and their intervals, or why there are none."""
    whole = level.as_dict()
    beside = ("n_patients", "intervals_95", "no_intervals")
    return {k: whole[k] for k in (*level.estimates, *beside)}


@dataclass(frozen=True)
class Measured:
    """Performance (None where no labelled slides of two classes are left to judge by), and the
    predictions of slides and of patients with thresholds and referrals. ``left_out`` says of which
    labelled slides no figure speaks, and why; ``uncalled`` where there is no performance how cases
    are called without it; ``called`` by what cases are called and referred, for the record."""

    performance: Performance | None
    slides: tuple[Prediction, ...]
    patients: tuple[Prediction, ...]
    left_out: tuple[str, ...] = ()
    uncalled: tuple[str, ...] = ()
    called: Mapping[str, Any] = field(default_factory=dict)


def measure_performance(
    rows: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    *,
    how: Mapping[str, Any],
    splits_known: bool = True,
    prevalence: float | None = None,
    seed: int = 0,
    notes: Sequence[str] = (),
    external: bool | None = None,
    subgroups: Mapping[str, Mapping[str, str]] | None = None,
    ordered: bool = False,
    painted: Collection[str] = (),
    kept: Choice | None = None,
) -> Measured:
    """Thresholds from the validation cases, measures of the held-out ones.

    Parameters
    ----------
    rows : sequence of Prediction
        Of slides, of all splits.
    class_names, positive
    how : mapping
        How the predictions were made, for the record.
    splits_known : bool
        Whether ``split`` is that of the model's own training.
    prevalence : float, optional
        At which predictive values are given.
    seed : int
        Of the bootstrap.
    notes : sequence of str
        What is to be said besides.
    external : bool, optional
        Judge by the external cohort alone (True), or by all but it (False); by default by the
        external cohort where there is one.
    subgroups : mapping of column to (mapping of slide id to value), optional
        Columns of the manifest by which the same patients are measured in groups.
    ordered : bool
        Whether the classes are grades, from lowest to highest.
    painted : collection of str
        Slides that ``scaat demo`` painted.
    kept : Choice, optional
        What is kept with the model of what its validation cases chose; it holds where none of
        them are here.
    """
    if splits_known:
        rows = mark_known_patients(rows)
    called = call(rows, class_names, positive, kept)
    slides, patients = called.slides, called.abstained.patients
    chosen = evaluated(slides, class_names, splits_known, external)
    splits = {(r.patient_id, r.fold, r.split) for r in chosen.rows}
    of_patients = tuple(r for r in patients if (r.patient_id, r.fold, r.split) in splits)
    measure = partial(
        measure_level,
        class_names=class_names,
        positive=positive,
        prevalence=prevalence,
        seed=seed,
        ordered=ordered,
    )
    slide_level, patient_level = measure(chosen.rows), measure(of_patients)
    left_out = tuple(notes_of_left_out(slides, of_patients, class_names))
    if slide_level is None or patient_level is None:
        return Measured(None, slides, patients, left_out, called.uncalled, called.record)
    folds = {}
    fold_patients = {}
    fold_counts = {}
    for fold in sorted({r.fold for r in chosen.rows if r.fold is not None}):
        mine = [r for r in chosen.rows if r.fold == fold]
        fold_counts[fold] = {name: sum(r.label == name for r in mine) for name in class_names}
        if (own := measure(mine)) is not None:
            folds[fold] = own
        if (own := measure([r for r in of_patients if r.fold == fold])) is not None:
            fold_patients[fold] = own
    shown = {r.slide_id for r in chosen.rows}
    of_painted = painted_note(len(shown & set(painted)), len(shown))
    all_notes = [*([of_painted] if of_painted else []), *notes, *chosen.notes, *left_out]
    all_notes += [*called.notes, *_few(of_patients, class_names)]
    if len(class_names) > 2:
        all_notes.append(SEVERAL_CLASSES)
        all_notes += [NO_PREDICTIVE_VALUES] if prevalence is not None else []
    elif prevalence is None:
        all_notes.append(
            "Predictive values are at the prevalence of these cases; give --prevalence for "
            "that of the patients the model is meant for."
        )
    if called.fell_back:
        all_notes.append(
            "The threshold is 0.5: no validation cases of both classes could choose it."
        )
    return Measured(
        Performance(
            class_names=tuple(class_names),
            positive_class=positive,
            evaluated_on=chosen.words,
            slide=slide_level,
            patient=patient_level,
            folds=folds,
            thresholds=called.thresholds,
            how=how,
            predictions_fingerprint=_fingerprint(chosen.rows),
            slide_rows=chosen.rows,
            patient_rows=of_patients,
            notes=tuple(all_notes),
            abstention=called.abstained.record,
            fold_counts=fold_counts,
            fold_patients=fold_patients,
            patient_rule=called.patient_rule,
            subgroups=measure_subgroups(
                chosen.rows,
                of_patients,
                subgroups or {},
                class_names,
                positive,
                prevalence=prevalence,
                seed=seed,
                ordered=ordered,
            ),
        ),
        slides,
        patients,
        left_out,
        called=called.record,
    )


def _few(patients: Sequence[Prediction], class_names: Sequence[str]) -> list[str]:
    """What a reader of figures of few patients, or of fewer classes than there are, must know."""
    counts = dict.fromkeys(class_names, 0)
    for label, n in Counter(p.label for p in patients).items():
        if label in counts:
            counts[label] = n
    notes = []
    if absent := [name for name, n in counts.items() if not n]:
        notes.append(
            f"No evaluated patient is of: {', '.join(absent)}. Nothing is measured of them, and "
            "means over classes are over the others."
        )
    if few := [f"{n} of {name}" for name, n in counts.items() if 0 < n < MIN_PATIENTS]:
        notes.append(
            f"Few patients ({', '.join(few)}): figures without an interval may be far from what "
            "other patients would give."
        )
    return notes


def _fingerprint(rows: Sequence[Prediction]) -> str:
    """Of the predictions as the table holds them: other ones are another look at the cases."""
    return fingerprint(
        {
            "rows": [
                [r.slide_id, r.fold, r.split, r.label, [f"{p:.6g}" for p in r.probability]]
                for r in sorted(rows, key=lambda r: r.slide_id)
            ]
        }
    )
