"""What models say of slides: one for all, one per fold, or several together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import BundleError, StoreError
from pathology_scaat.evaluation.performance.aggregate import Calibration
from pathology_scaat.evaluation.performance.predictions import (
    EXTERNAL,
    NOT_CALIBRATED,
    Prediction,
)
from pathology_scaat.evaluation.performance.slide_scores import SlideScore, explained_score, rule_of
from pathology_scaat.execution.devices import require_device
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.model_scores import CaseScores, ScoresOnDemand
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.pipeline.slide_calibration import calibrated_words, fit_of
from pathology_scaat.pipeline.stage import usable_slides
from pathology_scaat.system.names import spelled_as
from pathology_scaat.system.rounding import significant
from pathology_scaat.training.bags.patch_meaning import least_said, most_against
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint
from pathology_scaat.training.bundle_quality import silent_note
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.decision import Decision

STAGE = "predict"


@dataclass(frozen=True)
class FoldModel:
    """A model and the slides it may speak of.

    Attributes
    ----------
    fold : int or None
        Fold of cross-validation; None where there is one model for all.
    model : Path
        Its bundle.
    splits : dict of slide id to split, or None
        Part of each slide in its training, of the slides to predict; None where no table of this
        folder records, so that the bundle alone does.
    decision : Decision or None
        What is kept with the model of what its validation cases chose.
    """

    fold: int | None
    model: Path
    splits: dict[str, str] | None
    decision: Decision | None = None


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one model (or of several together), and how they came about.

    Attributes
    ----------
    splits_known : bool
        Whether it is known of each slide if the model was trained on it.
    fit : Calibration or None
        How scores of slides became probabilities; None where the model's are calibrated itself.
    patches : dict of slide id to (N,) float32
        Of one model the positive class's probability of each patch; of several together its
        standard deviation over them.
    apart : dict of slide id to int
        Of several together: patches that some put above one half, others not; of models of
        slides, patches that some say speak for the class, others against it.
    of_slides : bool
        Whether the models learnt from labels of slides.
    """

    rows: tuple[Prediction, ...]
    class_names: tuple[str, ...]
    positive: str
    rule: str
    calibration: str
    fingerprints: tuple[str, ...]
    splits_known: bool
    fit: Calibration | None = None
    patches: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    apart: Mapping[str, int] = field(default_factory=dict)
    of_slides: bool = False


def slides_of(cohort: Manifest, space: Workspace, one: FoldModel) -> list[ManifestRow]:
    """Rows of the manifest that are tiled and that a model may speak of.

    What an earlier run tiled of a slide that has failed since is no result of it.
    """
    tiled = set(usable_slides(space, "tile"))
    mine = one.splits if one.fold is not None else None
    return [
        row
        for row in cohort.rows
        if row.slide_id in tiled and (mine is None or row.slide_id in mine)
    ]


def _split_of(config: BundleConfig, store: Path, recorded: str | None) -> str:
    """A slide's part in the training: the bundle's own record goes before any table's."""
    role = config.role_of(PatchStore(store).meta.slide_fingerprint)
    if role == "unknown":
        return recorded or ""
    if role in ("train", "val"):
        return role
    if role == "test" and recorded is None:
        return role
    if recorded in ("test", EXTERNAL):
        return recorded
    return EXTERNAL if recorded is None else "test"


def predict_with(
    one: FoldModel,
    cohort: Manifest,
    space: Workspace,
    device: str,
    listener: Reporter,
    like: ModelPredictions | None = None,
) -> ModelPredictions:
    """Predictions of one model, calibrated: on its validation slides, or as it was before."""
    require_device(device)
    config = read_bundle_config(one.model)
    computing = ScoresOnDemand(one.model, device)
    cases = None if config.bag_of is None else CaseScores(config, cohort, space, computing)
    rows: list[Prediction] = []
    by_patch: dict[str, NDArray[np.float32]] = {}
    for row in slides_of(cohort, space, one):
        listener.advance(STAGE)
        try:
            asked = _ask(one, config, row, space, computing.score, cases)
        except StoreError as error:
            listener.note(f"{row.slide_id} has no prediction: {error}")
            continue
        if asked is None:
            listener.note(f"{row.slide_id} has no prediction: it holds no patch.")
            continue
        prediction, by_patch[row.slide_id] = asked
        rows.append(prediction)
    fit = like.fit if like is not None else fit_of(config, rows, one.decision)
    return _said(one, config, rows, fit, by_patch)


def said_of_one(one: FoldModel, row: ManifestRow, space: Workspace) -> ModelPredictions | None:
    """What one model says of one slide that it has explained, where no other slide enters.

    None where others do (a slide that calibrates, a model of cases), or the slide's saliency is
    another model's.

    Raises
    ------
    StoreError
        If the patches cannot be read.
    BundleError
        If the model cannot.
    """
    config = read_bundle_config(one.model)
    if config.bag_of is not None:
        return None
    asked = _ask(one, config, row, space, lambda store: None)
    if asked is None or asked[0].split == "val":
        return None
    prediction, patches = asked
    fit = fit_of(config, [prediction], one.decision)
    return _said(one, config, [prediction], fit, {row.slide_id: patches})


def _ask(
    one: FoldModel,
    config: BundleConfig,
    row: ManifestRow,
    space: Workspace,
    compute: Callable[[PatchStore], SlideScore | None],
    cases: CaseScores | None = None,
) -> tuple[Prediction, NDArray[np.float32]] | None:
    """A slide's prediction, not calibrated yet, and its patches'; None where it holds no patch.

    ``compute`` asks the model itself, of a slide that it has not explained; ``cases`` are given
    where the model's bags are cases.

    Raises
    ------
    StoreError
        If the patches cannot be read.
    """
    store = space.patches(row.slide_id)
    recorded = None if one.splits is None else one.splits.get(row.slide_id, "")
    if cases is not None:
        scores = cases.score_of(row)
    else:
        patches = PatchStore(store)
        explained = explained_score(config, space.saliency(row.slide_id), patches.meta.fingerprint)
        scores = explained or compute(patches)
    split = (recorded or "") if one.fold is not None else _split_of(config, store, recorded)
    if scores is None:
        return None
    prediction = Prediction(
        row.patient_id, row.slide_id, one.fold, split,
        spelled_as(row.label or "", config.class_names),
        scores.probability, unlike_training=scores.unlike_training,
        model=model_fingerprint(config),
    )  # fmt: skip
    return prediction, scores.patches


def _said(
    one: FoldModel,
    config: BundleConfig,
    rows: Sequence[Prediction],
    fit: Calibration | None,
    by_patch: Mapping[str, NDArray[np.float32]],
) -> ModelPredictions:
    """Predictions of a model, calibrated."""
    calibrated = tuple(rows)
    if fit is not None and rows:
        values = fit.apply(np.stack([r.probability for r in rows]))
        calibrated = tuple(replace(r, probability=p) for r, p in zip(rows, values, strict=True))
    return ModelPredictions(
        calibrated, config.class_names, config.positive_class, rule_of(config),
        calibrated_words(config, fit), (model_fingerprint(config),),
        one.splits is not None or (config.knows_its_slides and all(r.split for r in rows)),
        fit, by_patch, of_slides=config.bag is not None,
    )  # fmt: skip


def combined(members: Sequence[ModelPredictions]) -> ModelPredictions:
    """What several models say together of the slides that all of them spoke of.

    A slide that any of them was trained on counts as a training slide, one that any was chosen by
    as a validation slide.

    Raises
    ------
    BundleError
        If the models do not predict the same classes.
    """
    first = members[0]
    if any(m.class_names != first.class_names for m in members):
        raise BundleError(
            "the models",
            "do not predict the same classes",
            "give models of one question together",
        )
    by_slide: dict[str, list[Prediction]] = {}
    for member in members:
        for row in member.rows:
            by_slide.setdefault(row.slide_id, []).append(row)
    at = first.class_names.index(first.positive)
    rows = []
    spread: dict[str, NDArray[np.float32]] = {}
    apart: dict[str, int] = {}
    of_slides = all(m.of_slides for m in members)
    for said in by_slide.values():
        if len(said) < len(members):
            continue
        stacked = np.stack([r.probability for r in said])
        slide_id = said[0].slide_id
        by_member = np.stack([m.patches[slide_id] for m in members])
        spread[slide_id] = by_member.std(axis=0)
        apart[slide_id] = _n_apart(by_member, len(first.class_names), of_slides)
        splits = [r.split for r in said]
        worst = next((s for s in ("train", "val", "", "test", EXTERNAL) if s in splits), "")
        odd = [r.unlike_training for r in said if r.unlike_training is not None]
        rows.append(
            replace(
                said[0],
                fold=None,
                split=worst,
                probability=stacked.mean(axis=0),
                disagreement=float(stacked[:, at].std()),
                # unlike what any of them was trained on: the others' word counts for it
                unlike_training=min(odd) if len(odd) == len(members) else None,
                model="",
            )
        )
    return ModelPredictions(
        tuple(rows),
        first.class_names,
        first.positive,
        f"{joint_rule([m.calibration for m in members])}; each: {first.rule}",
        "; ".join(dict.fromkeys(m.calibration for m in members)),
        tuple(f for m in members for f in m.fingerprints),
        all(m.splits_known for m in members),
        patches=spread,
        apart=apart,
        of_slides=of_slides,
    )


def _n_apart(by_member: NDArray[np.float32], n_classes: int, of_slides: bool) -> int:
    """Patches, of (M, N) probabilities of M models, that the models speak of differently.

    Under a model of slides most patches contribute nothing and lie about even, some of them above.
    """
    above = by_member > 0.5
    against = ~above
    if of_slides:
        above, against = by_member >= least_said(n_classes), by_member <= most_against(n_classes)
    return int((above.any(axis=0) & against.any(axis=0)).sum())


def joint_rule(calibrations: Sequence[str]) -> str:
    """How several models predict together, by what is said of each one's calibration."""
    n = len(calibrations)
    missing = sum(said.startswith(NOT_CALIBRATED) for said in calibrations)
    if not missing:
        return f"the mean of {n} models' calibrated probabilities"
    which = "none" if missing == n else f"{n - missing}"
    return f"the mean of {n} models' probabilities, {which} of them calibrated"


def record_of(members: Sequence[ModelPredictions], models: Sequence[FoldModel]) -> dict[str, Any]:
    """How predictions were made, for the record."""
    first = members[0]
    return {
        "rule": first.rule,
        "calibration": calibrations([one.fold for one in models], [m.calibration for m in members]),
        "models": [
            {"fold": one.fold, "fingerprint": said.fingerprints[0], "calibration": said.calibration}
            for one, said in zip(models, members, strict=True)
        ],
    }


def calibrations(folds: Sequence[int | None], said: Sequence[str]) -> str:
    """How each model was calibrated, by its fold or number; once where that is the same of all."""
    if len(set(said)) == 1:
        return said[0]
    return "; ".join(
        f"{f'model {number}' if fold is None else f'fold {fold}'}: {text}"
        for number, (fold, text) in enumerate(zip(folds, said, strict=True), 1)
    )


def silent_models(models: Sequence[FoldModel]) -> list[str]:
    """Which of the models have learnt nothing, and why, as sentences; figures are read by that."""
    told = [
        silent_note(read_bundle_config(one.model).nothing_learnt, one.fold, number, len(models))
        for number, one in enumerate(models, 1)
    ]
    return [note for note in told if note]


def slide_facts(
    rows: Sequence[Prediction], names: Sequence[str], positive: str
) -> dict[str, dict[str, str | float]]:
    """What ``slides.csv`` holds of each slide's prediction, and who is external."""
    found: dict[str, dict[str, str | float]] = {}
    for row in rows:
        chances = zip(names, row.probability, strict=True)
        found[row.slide_id] = {
            "predicted": row.called(names, positive),
            "probabilities": "; ".join(f"{name}={significant(p)}" for name, p in chances),
            "uncertainty": float(significant(row.uncertainty)),
            "refer": "" if row.refer is None else ("yes" if row.refer else "no"),
        }
        if row.split == EXTERNAL:
            found[row.slide_id]["split"] = EXTERNAL
    return found
