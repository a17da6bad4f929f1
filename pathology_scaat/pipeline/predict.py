"""``scaat predict``: what the model says of each slide and patient, and how often it is right."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, SUMS_NAME, Workspace
from pathology_scaat.artifacts.run_record import record_test
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.evaluation.performance.aggregate import Calibration, fit_calibration
from pathology_scaat.evaluation.performance.predictions import (
    EXTERNAL,
    PATIENTS_NAME,
    Prediction,
    write_predictions,
)
from pathology_scaat.evaluation.performance.report import (
    PERFORMANCE_FILES,
    Performance,
    measure_performance,
    remove_performance,
    write_performance,
)
from pathology_scaat.evaluation.performance.slide_scores import rule_of, score_slide
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.training.bundle import load_bundle

STAGE = "predict"


@dataclass(frozen=True)
class FoldModel:
    """A model of cross-validation and the slides it may speak of.

    Attributes
    ----------
    fold : int or None
        None where there is one model for all.
    model : Path
        Its bundle.
    splits : dict of slide id to split, or None
        Part of each slide in its training, of the slides to predict; None where it is not known.
    """

    fold: int | None
    model: Path
    splits: dict[str, str] | None


@dataclass(frozen=True)
class PredictReport:
    """What the prediction step left.

    Attributes
    ----------
    predictions : tuple of Prediction
        Of slides, as in ``predictions.csv``.
    performance : Performance or None
        None where there are no labelled held-out slides of two classes.
    """

    predictions: tuple[Prediction, ...]
    performance: Performance | None


def predict(
    out: Path,
    *,
    manifest: Path | Manifest,
    model: Path | None = None,
    folds: Sequence[FoldModel] | None = None,
    external: Collection[str] = (),
    prevalence: float | None = None,
    device: str = "auto",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> PredictReport:
    """Write ``predictions.csv`` for the slides in ``out/patches``, and ``performance.*``.

    Parameters
    ----------
    out : Path
        Output folder of ``tile``; what ``explain`` has computed is used.
    manifest : Path or Manifest
        Labels and patients.
    model : Path, optional
        Another bundle than ``out/model``: which slides it was trained on is then not known.
    folds : sequence of FoldModel, optional
        Models of cross-validation, each for its own slides, instead of one for all.
    external : collection of str
        Slides of an external cohort: they alone are judged by.
    prevalence : float, optional
        Share of positive patients at which predictive values are given.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    seed : int
        Of the bootstrap.
    reporter : Reporter, optional
        Listens to progress.

    Raises
    ------
    UsageError
        If nothing is tiled, or the prevalence is none.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError("--prevalence", f"{prevalence} is no share", "give e.g. 0.1")
    listener = logged(reporter, out, "predict")
    cohort = load_cohort(manifest)
    space = Workspace(out)
    if not space.slide_ids_with("tile"):
        raise UsageError("--out", "has no result of 'scaat tile'", "run that stage first")
    models = folds or [FoldModel(None, model or space.model, None if model else _splits(out))]
    rows: list[Prediction] = []
    how: dict[str, Any] = {}
    names: tuple[str, ...] = ()
    positive = ""
    total = sum(len(_todo(cohort, space, one)) for one in models)
    listener.begin(STAGE, total)
    for one in models:
        bundle = load_bundle(one.model, str(choose_device(device)))
        names, positive = bundle.config.class_names, bundle.config.positive_class
        found, calibration = _predict_with(one, cohort, space, device, listener)
        rows.extend(found)
        how.setdefault("rule", rule_of(bundle))
        how.setdefault("calibration", calibration)
        how.setdefault("models", []).append(
            {"fold": one.fold, "fingerprint": bundle.fingerprint, "calibration": calibration}
        )
    listener.end(STAGE)
    rows = [replace(r, split=EXTERNAL) if r.slide_id in set(external) else r for r in rows]
    known = all(one.splits is not None for one in models)
    performance, slides, patients = measure_performance(
        rows, names, positive, how=how, splits_known=known, prevalence=prevalence, seed=seed,
        notes=_left_out(cohort, rows),
    )  # fmt: skip
    if folds:  # the slides that calibrated a fold's model are tested by another one
        slides = tuple(row for row in slides if row.split == "test")
        patients = tuple(row for row in patients if row.split == "test")
    if performance is None:
        remove_performance(out)
    write_predictions(out / PREDICTIONS_NAME, slides, names, positive)
    write_predictions(out / PATIENTS_NAME, patients, names, positive)
    if performance is None:
        write_sums(out, SUMS_NAME, (PREDICTIONS_NAME, PATIENTS_NAME))
        listener.note(
            "No performance is given: the labels of held-out slides do not name two of the "
            "model's classes."
        )
        return PredictReport(slides, None)
    before = record_test(out, performance.evaluated_on, performance.predictions_fingerprint)
    performance = performance.after_looks(before)
    write_performance(out, performance)
    write_sums(out, SUMS_NAME, (PREDICTIONS_NAME, PATIENTS_NAME, *PERFORMANCE_FILES))
    for note in performance.notes:
        listener.note(note)
    return PredictReport(slides, performance)


def _left_out(cohort: Manifest, rows: Sequence[Prediction]) -> tuple[str, ...]:
    """Slides with a label that nothing is predicted for: figures do not speak of them."""
    predicted = {row.slide_id for row in rows}
    missing = [r.slide_id for r in cohort.rows if r.label and r.slide_id not in predicted]
    if not missing:
        return ()
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return (
        f"{len(missing)} slide(s) with a label have no prediction and do not count here ({shown}); "
        "slides.csv says what became of them.",
    )


def _splits(out: Path) -> dict[str, str]:
    return {row["slide_id"]: row["split"] for row in StatusTable(out).rows()}


def _todo(cohort: Manifest, space: Workspace, one: FoldModel) -> list[Any]:
    """Rows of the manifest that are tiled and that this model may speak of."""
    tiled = set(space.slide_ids_with("tile"))
    mine = one.splits if one.fold is not None else None
    return [
        row
        for row in cohort.rows
        if row.slide_id in tiled and (mine is None or row.slide_id in mine)
    ]


def _predict_with(
    one: FoldModel, cohort: Manifest, space: Workspace, device: str, listener: Reporter
) -> tuple[list[Prediction], str]:
    """Predictions of one model, calibrated; and what is to be said of the calibration."""
    chosen = choose_device(device)
    bundle = load_bundle(one.model, str(chosen))
    names = bundle.config.class_names
    splits = one.splits or {}
    rows: list[Prediction] = []
    for row in _todo(cohort, space, one):
        listener.advance(STAGE)
        try:
            scores = score_slide(
                bundle, space.patches(row.slide_id), space.saliency(row.slide_id), chosen
            )
        except StoreError as error:
            listener.note(f"{row.slide_id} has no prediction: {error}")
            continue
        if scores is None:
            listener.note(f"{row.slide_id} has no prediction: it holds no patch.")
            continue
        split = splits.get(row.slide_id, "")
        rows.append(
            Prediction(row.patient_id, row.slide_id, one.fold, split, row.label or "", scores)
        )
    if bundle.config.bag is not None:
        if "val_slide_auc" not in bundle.config.metrics:  # they held no two classes
            return rows, "not calibrated: no validation slides of two classes"
        warm = bundle.config.temperature
        return rows, f"calibrated on the validation slides (temperature {warm:.3g})"
    val = [r for r in rows if r.split == "val" and r.label in names]
    calibration = Calibration(text="not calibrated: no validation slide has a label")
    if val:
        calibration = fit_calibration(
            np.stack([r.probability for r in val]), np.array([names.index(r.label) for r in val])
        )
    if not rows:
        return rows, calibration.text
    calibrated = calibration.apply(np.stack([r.probability for r in rows]))
    return [
        Prediction(r.patient_id, r.slide_id, r.fold, r.split, r.label, p)
        for r, p in zip(rows, calibrated, strict=True)
    ], calibration.text
