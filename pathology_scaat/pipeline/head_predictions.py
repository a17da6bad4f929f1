"""``scaat predict --features``: what heads say of slides and patients, and of each patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.cohort.column import columns_of
from pathology_scaat.cohort.external import refuse_shared_with
from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.performance.predictions import EXTERNAL, Prediction
from pathology_scaat.evaluation.performance.subgroups import MIXED
from pathology_scaat.metrics.functional.calibration import softmax
from pathology_scaat.pipeline.head_cohort import (
    FeatureCohort,
    make_bags,
    read_feature_cohort,
    refuse_copied_features,
    truth_of,
)
from pathology_scaat.pipeline.head_folds import Member, ensure_record, member_of, members_of
from pathology_scaat.pipeline.head_scoring import (
    AllScored,
    Scored,
    check_members,
    refuse_known,
    score_bags,
)
from pathology_scaat.pipeline.head_survival import publish_survival
from pathology_scaat.pipeline.head_targets import head_folders, refuse_slide_models
from pathology_scaat.pipeline.kept_decision import Chooser, kept_choice
from pathology_scaat.pipeline.members import calibrations, joint_rule
from pathology_scaat.pipeline.prediction_files import Gathered, PredictReport, publish
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.training.bundle_quality import LEARNT_FROM_PAINTED, OF_PAINTED_SLIDES
from pathology_scaat.training.heads.bundle import HeadBundle
from pathology_scaat.training.heads.data import FeatureBag

BAG_RULE = (
    "a head on features: the sum of what the patches of a bag contribute; a bag is one {unit}"
)
OF_PATIENTS = "Each bag is all slides of a patient: what is headed slides counts bags."


@dataclass(frozen=True)
class HeadPredictions:
    """What predicting with one head left.

    Attributes
    ----------
    classes : PredictReport or None
        Of classes and grades.
    survival, external : dict or None
        The record of survival, as ``performance.json``, and beside folds that of an external
        cohort.
    """

    folder: Path
    n_predicted: int
    classes: PredictReport | None = None
    survival: dict[str, Any] | None = None
    external: dict[str, Any] | None = None

    @property
    def external_performance(self) -> dict[str, Any] | None:
        """The record of the external cohort beside that of folds; None where there are not both."""
        if self.classes is None:
            return self.external
        found = self.classes.external
        return found.as_dict() if found is not None else None

    @property
    def performance(self) -> dict[str, Any] | None:
        """The record of what was measured; None where nothing was."""
        if self.classes is None:
            return self.survival
        found = self.classes.performance
        return found.as_dict() if found is not None else None


@dataclass(frozen=True)
class _Asked:
    """What is asked of each head alike."""

    cohorts: tuple[FeatureCohort, ...]
    """The cohort, and the external one where there is one."""
    own: bool
    """Whether the heads are those of the folder."""
    prevalence: float | None
    subgroups: Mapping[str, Mapping[str, str]]
    seed: int
    listener: Reporter


def predict_heads(
    manifest: Path,
    out: Path,
    features: Path,
    *,
    models: Sequence[Path] = (),
    test_manifest: Path | None = None,
    test_features: Path | None = None,
    prevalence: float | None = None,
    subgroups: Sequence[str] = (),
    seed: int = 0,
    reporter: Reporter | None = None,
) -> tuple[HeadPredictions, ...]:
    """Predict with the heads in ``out``, or with other ones, and measure where there is a truth.

    Writes ``predictions.csv``, ``performance.*``, and of each slide what its patches contribute.
    The heads of folds each predict the patients that they never saw, and all of them together
    those of elsewhere.

    Parameters
    ----------
    manifest, out, features : Path
    models : sequence of Path, optional
        Other heads than those in ``out``; several predict together.
    test_manifest : Path, optional
        An external cohort: judged by itself.
    test_features : Path, optional
        Its features, where they are in another folder.
    prevalence : float, optional
        At which predictive values are given; of classes.
    subgroups : sequence of str
        Columns of the tables by whose values the same patients are measured.
    seed : int
        Of the bootstrap.
    reporter : Reporter, optional

    Raises
    ------
    UsageError
        If there is no head, or table and features do not fit.
    ManifestError
        If a patient of the external cohort is of the other one, or a head was trained with it.
    BundleError
        If the features are of another encoder than the head's, or folds lack a head.
    """
    listener = reporter or Silent()
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError("--prevalence", f"{prevalence} is no share", "give e.g. 0.1")
    if test_features is not None and test_manifest is None:
        raise UsageError("--test-features", "does nothing without --test-manifest", "give both")
    folders = (out,) if models else head_folders(out)
    if not folders:
        raise UsageError("--out", "holds no head", "train one with 'scaat train --features'")
    given = tuple(member_of(None, path) for path in models)
    heads = {folder: given or members_of(folder) for folder in folders}
    for members in heads.values():
        check_members(members)
        if prevalence is not None and members[0].bundle.config.target.kind == "survival":
            raise UsageError("--prevalence", "is of classes, and the head tells survival",
                             "leave it out")  # fmt: skip
    refuse_slide_models(out)
    cohorts = [read_feature_cohort(manifest, features)]
    if test_manifest is not None:
        outside = read_feature_cohort(
            test_manifest,
            test_features or features,
            option="--test-manifest",
            folder_option="--features" if test_features is None else "--test-features",
        )
        refuse_shared_with(cohorts[0].manifest, outside.manifest)
        cohorts.append(outside)
    refuse_copied_features(*cohorts)
    groups, said = columns_of([(c.table, c.manifest) for c in cohorts], list(subgroups))
    claim_output(out)
    for note in (*(note for cohort in cohorts for note in cohort.notes), *said):
        listener.note(note)
    asked = _Asked(tuple(cohorts), not models, prevalence, groups, seed, listener)
    return tuple(_predict_one(folder, members, asked) for folder, members in heads.items())


def _predict_one(folder: Path, members: tuple[Member, ...], asked: _Asked) -> HeadPredictions:
    config = members[0].bundle.config
    bags: list[FeatureBag] = []
    external: set[str] = set()
    measured = False
    notes: list[str] = []
    for number, cohort in enumerate(asked.cohorts):
        truth = truth_of(cohort, config.target, needed=False)
        measured = measured or bool(truth)
        found = make_bags(cohort, truth, config.unit)
        if empty := [bag.bag_id for bag in found if not bag.n_patches]:
            notes.append(f"{len(empty)} bag(s) hold no patch and have no prediction "
                         f"({', '.join(empty[:5])}).")  # fmt: skip
        found = [bag for bag in found if bag.n_patches]
        if number:
            refuse_known(found, members)
            external |= {bag.bag_id for bag in found}
        bags += found
    asked.listener.begin("predict", len(bags))
    slides = {
        row.slide_id: row.slide_path
        for cohort in asked.cohorts
        for row in cohort.rows
        if isinstance(row.slide_path, Path) and _is_slide(row.slide_path)
    }
    scored = score_bags(folder, members, bags, frozenset(external), slides, asked.listener)
    asked.listener.end("predict")
    notes += [*scored.notes, *painted_notes(members)]
    if not measured:
        notes.append(f"The tables have no column {config.target.column}: nothing is measured.")
    groups = {column: _by_bag(bags, value_of) for column, value_of in asked.subgroups.items()}
    ensure_record(folder, {"target": config.target.model_dump(mode="json"),
                           "models": [one.bundle.fingerprint for one in members]})  # fmt: skip
    if config.target.kind == "survival":
        records = publish_survival(
            folder, members, scored.bags, notes, asked.subgroups, asked.seed, asked.listener
        )
        return HeadPredictions(
            folder, records.n_predicted, survival=records.main, external=records.external
        )
    return _classes(folder, members, scored, notes, groups, asked)


def painted_notes(members: Sequence[Member]) -> list[str]:
    """That heads learnt from features of painted slides, as a sentence."""
    n = sum(LEARNT_FROM_PAINTED in one.bundle.config.notes for one in members)
    if not n:
        return []
    return [LEARNT_FROM_PAINTED if len(members) == 1 else
            f"{n} of the {len(members)} heads {OF_PAINTED_SLIDES}."]  # fmt: skip


def _is_slide(path: Path) -> bool:
    """Whether a table's path is that of a slide that is there, and no file of features."""
    return path.suffix.lower() not in (".h5", ".hdf5") and path.exists()


def _by_bag(bags: Sequence[FeatureBag], value_of: Mapping[str, str]) -> dict[str, str]:
    """A column by bag, as its row is headed: of several slides the value that all have."""
    found = {}
    for bag in bags:
        values = {value_of.get(file.slide_id, "") for file in bag.files}
        value = values.pop() if len(values) == 1 else MIXED
        if value:
            found[_heading(bag)] = value
    return found


def _heading(bag: FeatureBag) -> str:
    return "; ".join(file.slide_id for file in bag.files)


def _classes(
    folder: Path,
    members: Sequence[Member],
    scored: AllScored,
    notes: list[str],
    groups: Mapping[str, Mapping[str, str]],
    asked: _Asked,
) -> HeadPredictions:
    first = members[0].bundle
    config = first.config
    folds = members[0].fold is not None
    at = config.target.names.index(config.positive_class)
    rows = tuple(_prediction(one, at) for one in scored.bags)
    if config.unit == "patient":
        notes.append(OF_PATIENTS)
    rule = BAG_RULE.format(unit=config.unit)
    said = [m.bundle.config.calibration for m in members]
    how: dict[str, Any] = {
        "rule": rule,
        "calibration": calibrations([m.fold for m in members], said),
        "models": [
            {"fold": one.fold, "fingerprint": one.bundle.fingerprint,
             "calibration": one.bundle.config.calibration}
            for one in members
        ],
    }  # fmt: skip
    if len(members) > 1:
        joint = f"{joint_rule(said)}; each: {rule}"
        how["external_rule" if folds else "rule"] = joint
    both = folds and any(r.split == EXTERNAL for r in rows)
    gathered = Gathered(
        rows,
        config.target.names,
        config.positive_class,
        how,
        True,
        both,
        n_models=len(members),
        ordered=config.target.kind == "grades",
        painted=frozenset(
            _heading(one.bag) for one in scored.bags if any(f.painted for f in one.bag.files)
        ),
        kept=kept_choice([one.decision for one in members]),
        choosers=tuple(
            Chooser(one.fold, one.folder, one.bundle.fingerprint)
            for one in members if asked.own and one.folder is not None
        ),
    )  # fmt: skip
    report = publish(
        folder, gathered, notes=notes, folds=folds, prevalence=asked.prevalence,
        subgroups=groups, seed=asked.seed, listener=asked.listener, fill_slide_table=False,
    )  # fmt: skip
    if report.performance is None:
        for note in notes:
            asked.listener.note(note)
    return HeadPredictions(folder, len(report.predictions), classes=report)


def _prediction(one: Scored, at: int) -> Prediction:
    """A bag's probabilities: of the head that spoke, or the mean over those that did."""
    chances = np.stack([_chances(b, s) for b, s in zip(one.heads, one.scores, strict=True)])
    several = len(one.heads) > 1
    return Prediction(
        one.bag.patient_id, _heading(one.bag), one.fold, one.split, one.bag.label,
        chances.mean(axis=0),
        disagreement=float(chances[:, at].std()) if several else None,
        model="" if several else one.heads[0].fingerprint,
    )  # fmt: skip


@torch.no_grad()
def _chances(bundle: HeadBundle, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    logits = bundle.model.logits(torch.from_numpy(scores)[None].float()).double().numpy()
    found: NDArray[np.float64] = softmax(logits / bundle.config.temperature)[0]
    return found
