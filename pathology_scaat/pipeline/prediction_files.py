"""Predictions measured and written down: tables, figures, and what was chosen on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, SUMS_NAME
from pathology_scaat.artifacts.run_record import record_test
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.evaluation.performance.kept import can_choose
from pathology_scaat.evaluation.performance.predictions import (
    HOW_NAME,
    PATIENTS_NAME,
    Prediction,
    write_how,
    write_predictions,
)
from pathology_scaat.evaluation.performance.report import (
    Measured,
    Performance,
    measure_performance,
)
from pathology_scaat.evaluation.performance.report_files import (
    STEMS,
    performance_files,
    remove_performance,
    write_performance,
)
from pathology_scaat.evaluation.performance.who_counts import why_not_measured
from pathology_scaat.pipeline.kept_decision import Chooser, keep
from pathology_scaat.pipeline.members import slide_facts
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.training.decision import Choice


@dataclass(frozen=True)
class PredictReport:
    """What the prediction step left.

    Attributes
    ----------
    predictions : tuple of Prediction
        Of slides, as in ``predictions.csv``.
    performance : Performance or None
        None where there are no labelled held-out slides of two classes.
    external : Performance or None
        Of the external cohort beside cross-validation, where there are both.
    decision : mapping
        By what cases are called and referred, as in ``predictions.json``.
    """

    predictions: tuple[Prediction, ...]
    performance: Performance | None
    external: Performance | None = None
    decision: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """Predictions of all models: one row per slide.

    ``disagreement`` is (N,) of the slide's N patches, 0 to 0.5. For folds: one row per slide and
    model that did not learn from it.
    """

    rows: tuple[Prediction, ...]
    class_names: tuple[str, ...]
    positive: str
    how: dict[str, Any]
    splits_known: bool
    both: bool
    """Whether there are out-of-fold predictions and an external cohort, each to be judged."""
    disagreement: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Of slides that several models predicted: how far they differ about each patch."""
    apart: Mapping[str, int] = field(default_factory=dict)
    """Of these slides: patches that the models speak of differently."""
    of_slides: bool = False
    """Whether all models that predict together learnt from labels of slides."""
    n_models: int = 1
    ordered: bool = False
    """Whether the classes are grades, from lowest to highest."""
    painted: frozenset[str] = frozenset()
    """Slides that ``scaat demo`` painted."""
    kept: Choice | None = None
    """What was chosen for the models that predict when they were made."""
    unlike_chosen: tuple[str, ...] = ()
    """In what the slides here differ from those that chose what is kept, where that is used."""
    choosers: tuple[Chooser, ...] = ()
    """Models of this folder, with which is kept what their validation cases choose here."""


def publish(
    out: Path,
    found: Gathered,
    *,
    notes: Sequence[str],
    folds: bool,
    prevalence: float | None,
    subgroups: Mapping[str, Mapping[str, str]] | None,
    seed: int,
    listener: Reporter,
    fill_slide_table: bool = True,
) -> PredictReport:
    """Measure predictions, and write their tables and figures into ``out``.

    ``fill_slide_table`` also puts them into ``slides.csv``, which features have none of.
    """
    names, positive = found.class_names, found.positive
    # a model of this folder is judged by what its cases choose here; that is what is kept then
    anew = bool(found.choosers) and can_choose(found.rows, names)
    kept = None if anew else found.kept
    measured = [
        measure_performance(
            found.rows, names, positive, how=found.how, splits_known=found.splits_known,
            prevalence=prevalence, seed=seed, notes=notes, external=wanted, subgroups=subgroups,
            ordered=found.ordered, painted=found.painted, kept=kept,
        )
        for wanted in ((False, True) if found.both else (None,))
    ]  # fmt: skip
    slides, patients = measured[0].slides, measured[0].patients
    keep(found.choosers, slides, names, positive, listener)
    if folds:  # the slides that calibrated a fold's model are tested by another one
        slides = tuple(row for row in slides if row.fold is None or row.split == "test")
        patients = tuple(row for row in patients if row.fold is None or row.split == "test")
    write_predictions(out / PREDICTIONS_NAME, slides, names, positive)
    write_predictions(out / PATIENTS_NAME, patients, names, positive)
    if fill_slide_table:
        _fill_slide_table(out, slides, names, positive)
    written = [_write(out, one, stem, listener, notes)
               for one, stem in zip(measured, STEMS, strict=False)]  # fmt: skip
    for stem in STEMS[len(measured) :]:
        remove_performance(out, stem)
    files = [name for performance, stem in zip(written, STEMS, strict=False)
             if performance is not None for name in performance_files(stem)]  # fmt: skip
    write_how(
        out / HOW_NAME,
        {**found.how, "positive_class": positive, "decision": dict(measured[0].called)},
    )
    write_sums(out, SUMS_NAME, (PREDICTIONS_NAME, PATIENTS_NAME, HOW_NAME, *files))
    return PredictReport(
        slides, written[0], written[1] if len(written) > 1 else None, measured[0].called
    )


def _write(
    out: Path, measured: Measured, stem: str, listener: Reporter, notes: Sequence[str]
) -> Performance | None:
    """Write the figures of an evaluation, counted as a look at its cases; or say there are none."""
    performance = measured.performance
    if performance is None:
        remove_performance(out, stem)
        listener.note(f"No performance is given: {why_not_measured(measured.slides)}.")
        for note in (*notes, *measured.left_out, *measured.uncalled):
            listener.note(note)
        return None
    before = record_test(out, performance.evaluated_on, performance.predictions_fingerprint)
    performance = performance.after_looks(before)
    write_performance(out, performance, stem)
    for note in performance.notes:
        listener.note(note)
    return performance


def _fill_slide_table(
    out: Path, slides: Sequence[Prediction], names: Sequence[str], positive: str
) -> None:
    """Put predictions into ``slides.csv``; what an earlier call said of other slides goes."""
    status = StatusTable(out)
    nothing = dict.fromkeys(("predicted", "probabilities", "uncertainty", "refer"), "")
    status.set_facts({row["slide_id"]: nothing for row in status.rows()})
    status.set_facts(slide_facts(slides, names, positive))
