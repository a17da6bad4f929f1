"""``scaat predict``: what the model says of each slide and patient, and how often it is right."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.external import with_external_test
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import BundleError, UsageError
from pathology_scaat.evaluation.performance.kept import can_choose
from pathology_scaat.evaluation.performance.predictions import EXTERNAL
from pathology_scaat.evaluation.performance.slide_scores import CASE_RULE
from pathology_scaat.evaluation.performance.who_counts import notes_of_record
from pathology_scaat.pipeline.cohort_page import renew_cohort_page
from pathology_scaat.pipeline.disagreement import DISAGREEMENT, where_apart, write_disagreement
from pathology_scaat.pipeline.kept_decision import (
    Chooser,
    kept_choice,
    step_notes,
    steps_of,
    with_decisions,
)
from pathology_scaat.pipeline.members import (
    STAGE,
    FoldModel,
    combined,
    predict_with,
    record_of,
    silent_models,
    slides_of,
)
from pathology_scaat.pipeline.origins import origin_notes, painted_slides
from pathology_scaat.pipeline.prediction_files import Gathered, PredictReport, publish
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.stage import without_result
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.run_bundles import bundle_of_results, fold_bundles

OF_CASES = (
    "Each slide has the prediction of its case, all slides of the patient together: figures of "
    "slides count a case once a slide; those of patients are the ones to read."
)

OF_ALL_AFTER_FOLDS = "OUT/model predicts now; the maps of the folds' models say nothing of it."


def predict(
    out: Path,
    *,
    manifest: Path | Manifest,
    test_manifest: Path | Manifest | None = None,
    models: Sequence[Path] = (),
    folds: Sequence[FoldModel] | None = None,
    external: Collection[str] = (),
    prevalence: float | None = None,
    subgroups: Mapping[str, Mapping[str, str]] | None = None,
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
    test_manifest : Path or Manifest, optional
        An external cohort that is tiled in ``out`` as well: it alone is judged by.
    models : sequence of Path, optional
        Other bundles than ``out/model``. What each was trained on stands in its own record. Several
        predict together: the mean of their probabilities.
    folds : sequence of FoldModel, optional
        Models of cross-validation, each for its own slides, instead of one for all. External
        slides are predicted by all of them together, and judged by themselves.
    external : collection of str
        Slides of an external cohort, where ``manifest`` holds them already; those that an
        earlier run recorded in ``slides.csv`` are known.
    prevalence : float, optional
        Share of positive patients at which predictive values are given.
    subgroups : mapping of column to (mapping of slide id to value), optional
        Columns of the manifest by which the same patients are measured in groups.
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
    BundleError
        If models that are to predict together predict different classes, or what is kept with one
        is damaged or of another model.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError("--prevalence", f"{prevalence} is no share", "give e.g. 0.1")
    listener = logged(reporter, out, "predict")
    cohort = load_cohort(manifest)
    outside = set(external)
    if test_manifest is not None:
        tested = load_cohort(test_manifest)
        cohort = with_external_test(cohort, tested, seed)
        outside |= set(tested.slide_ids)
    space = Workspace(out)
    if not space.slide_ids_with("tile"):
        raise without_result(out, "tile")
    recorded = {s: EXTERNAL if s in outside else split for s, split in _splits(out).items()}
    ones = list(folds or [FoldModel(None, m, None) for m in models])
    if not ones:
        ones = [_trained_here(space, recorded)]
        if bundle_of_results(out) != space.model:
            listener.note(OF_ALL_AFTER_FOLDS)
    ones = with_decisions(ones)
    found = _gather(ones, cohort, outside, space, device, listener, own=not models)
    differ = write_disagreement(
        out / DISAGREEMENT, space, found.disagreement, found.apart, found.positive, found.n_models,
        where_apart(found.positive, found.class_names, found.of_slides),
    )  # fmt: skip
    if differ:
        found.how[DISAGREEMENT] = differ
    of_models = (*silent_models(ones), *origin_notes([one.model for one in ones]))
    notes = (*of_models, *_notes(cohort, found, recorded, models), *found.unlike_chosen)
    report = publish(
        out, found, notes=notes, folds=bool(folds),
        prevalence=prevalence, subgroups=subgroups, seed=seed, listener=listener,
    )  # fmt: skip
    renew_cohort_page(out, listener)  # it links to where models differ
    return report


def _gather(
    ones: Sequence[FoldModel],
    cohort: Manifest,
    outside: Collection[str],
    space: Workspace,
    device: str,
    listener: Reporter,
    *,
    own: bool,
) -> Gathered:
    """Ask every model: of folds each for its own slides, and all together for external ones.

    ``own`` models are those of this folder, with which is kept what their validation cases chose.
    """
    folds = any(one.fold is not None for one in ones)
    disagreement: Mapping[str, NDArray[np.float32]] = {}
    apart: Mapping[str, int] = {}
    joint = [replace(one, fold=None, splits=dict.fromkeys(outside, EXTERNAL))
             for one in ones] if folds and outside else []  # fmt: skip
    others = replace(cohort, rows=tuple(r for r in cohort.rows if r.slide_id in outside))
    total = sum(len(slides_of(cohort, space, one)) for one in ones)
    listener.begin(STAGE, total + sum(len(slides_of(others, space, one)) for one in joint))
    said = [predict_with(one, cohort, space, device, listener) for one in ones]
    shared = [predict_with(one, others, space, device, listener, like)
              for one, like in zip(joint, said, strict=False)]  # fmt: skip
    listener.end(STAGE)
    if any(p.class_names != said[0].class_names for p in said):
        raise BundleError("the models", "do not predict the same classes", "train them alike")
    how = record_of(said, ones)
    if folds or len(said) == 1:
        rows = [row for part in said for row in part.rows]
    else:
        joined = combined(said)
        rows, how["rule"] = list(joined.rows), joined.rule
        disagreement, apart = joined.patches, joined.apart
    if shared:
        joined = combined(shared)
        rows += joined.rows
        disagreement, apart = joined.patches, joined.apart
        how["external_rule"] = joined.rule
    steps, decisions = steps_of(space, rows), [one.decision for one in ones]
    kept = kept_choice(decisions)
    in_use = kept is not None and not can_choose(rows, said[0].class_names)
    never_seen = set(outside) - {r.slide_id for r in rows if r.split in ("train", "val")}
    return Gathered(
        tuple(replace(r, split=EXTERNAL) if r.slide_id in never_seen else r for r in rows),
        said[0].class_names,
        said[0].positive,
        how,
        all(p.splits_known for p in said),
        bool(shared),
        disagreement,
        apart,
        all(p.of_slides for p in said),
        len(said),
        painted=painted_slides(space, {r.slide_id for r in rows}),
        kept=kept,
        unlike_chosen=tuple(step_notes(decisions, steps)) if in_use else (),
        choosers=tuple(
            Chooser(
                one.fold,
                one.model,
                part.fingerprints[0],
                part.fit,
                steps[0] if len(steps) == 1 else None,
            )
            for one, part in zip(ones, said, strict=True)
        )
        if own
        else (),
    )


def _notes(
    cohort: Manifest,
    found: Gathered,
    recorded: Mapping[str, str],
    models: Sequence[Path],
) -> tuple[str, ...]:
    """Slides that figures do not speak of, and what is not known of those they do."""
    rows = found.rows
    notes = [OF_CASES] if CASE_RULE in str(found.how["rule"]) else []
    predicted = {row.slide_id for row in rows}
    missing = [r.slide_id for r in cohort.rows if r.label and r.slide_id not in predicted]
    if missing:
        notes.append(
            f"{len(missing)} slide(s) with a label have no prediction and do not count here "
            f"({_some(missing)}); slides.csv says what became of them."
        )
    there = {r.slide_id for r in cohort.rows}
    absent = [s for s, split in recorded.items() if split == EXTERNAL and s not in there]
    if absent:
        notes.append(
            f"{len(absent)} external test slide(s) in this folder are not in the manifest and do "
            f"not count here ({_some(absent)}); give --test-manifest to judge by them."
        )
    if models and found.splits_known:
        notes += notes_of_record(rows)
    return tuple(notes)


def _some(slide_ids: Sequence[str]) -> str:
    return ", ".join(slide_ids[:5]) + (", ..." if len(slide_ids) > 5 else "")


def _trained_here(space: Workspace, recorded: dict[str, str]) -> FoldModel:
    """The model of the folder, for all slides.

    The splits of ``slides.csv`` are those of the model that was trained there; what one that was
    imported into its place was trained on, or fine-tuned from, they do not say.
    """
    config = read_bundle_config(space.model)
    unknown = config.imported is not None or any(a.slides is None for a in config.ancestors or ())
    return FoldModel(None, space.model, None if unknown else recorded)


def _splits(out: Path) -> dict[str, str]:
    return {row["slide_id"]: row["split"] for row in StatusTable(out).rows()}


def predicting_bundles(out: Path, models: Sequence[Path], ensemble: bool) -> list[Path]:
    """The bundles that predict: those given, or those of all folds; empty for ``out/model``.

    Raises
    ------
    UsageError
        If both are asked for, there are no folds, or there is neither a model nor a fold.
    """
    folds = list(fold_bundles(out))
    if ensemble:
        if models:
            raise UsageError("--ensemble", "takes the models of the folds", "leave --model out")
        if len(folds) < 2:
            raise UsageError("--ensemble", "finds no models of folds in --out",
                             "run with --folds first")  # fmt: skip
        return folds
    if not models and folds and not Workspace(out).model.is_dir():
        raise UsageError(
            "--out",
            "holds models of folds and none for all slides",
            "predict with --ensemble, or repeat 'scaat run' with the same --folds",
        )
    return list(models)
