"""Cross-validation: each slide is explained and predicted by a model that never saw its patient."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.folds import FoldSlide, slide_folds, split_of
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import TrainingError
from pathology_scaat.pipeline.data_years import with_years
from pathology_scaat.pipeline.label_source import (
    FROM_BAGS,
    label_notes,
    label_source,
    labelled_slides,
)
from pathology_scaat.pipeline.members import FoldModel
from pathology_scaat.pipeline.new_model import results_are_of_before
from pathology_scaat.pipeline.reporting import Reporter, Silent, train_reported
from pathology_scaat.pipeline.train import learn, training_slides
from pathology_scaat.training import TrainConfig, TrainingSlide
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.method_cautions import method_caution
from pathology_scaat.training.run_bundles import bundle_fingerprint


@dataclass(frozen=True)
class FoldPlan:
    """Which fold each slide is tested in.

    Attributes
    ----------
    fold_of : dict of slide id to fold
    n_folds : int
    slides : tuple of TrainingSlide
        All of them; their ``split`` is that of no fold yet.
    by_slide : bool
        Whether labels of slides are learnt from.
    """

    fold_of: dict[str, int]
    n_folds: int
    slides: tuple[TrainingSlide, ...]
    by_slide: bool

    def splits(self, tested: int) -> dict[str, str]:
        """Split of each slide while a fold is tested."""
        return {s: split_of(fold, tested, self.n_folds) for s, fold in self.fold_of.items()}

    def of_fold(self, tested: int) -> tuple[TrainingSlide, ...]:
        """The slides with their splits while a fold is tested."""
        splits = self.splits(tested)
        return tuple(replace(s, split=splits[s.slide_id]) for s in self.slides)

    def tested_in(self, one: FoldModel) -> tuple[str, ...]:
        """Slides that a fold's model tests."""
        return tuple(s for s, own in self.fold_of.items() if own == one.fold)


def plan_folds(
    cohort: Manifest,
    out: Path,
    n_folds: int,
    settings: TrainConfig,
    seed: int,
    *,
    sites: Mapping[str, str] | None = None,
    external: Collection[str] = (),
    reporter: Reporter | None = None,
) -> FoldPlan:
    """Assign the cohort's patients to folds, stratified by label.

    The manifest's own folds are kept where it gives every slide one; its splits do not count.

    Parameters
    ----------
    cohort, out
        The cohort that was tiled into ``out``.
    n_folds : int
    settings : TrainConfig
        Says what is learnt from.
    seed : int
    sites : mapping of slide id to site, optional
        Sites that are kept together.
    external : collection of str
        Slides of an external test cohort: in no fold.
    reporter : Reporter, optional
        Receives the notes for the user.

    Raises
    ------
    ManifestError
        If there are too few patients or sites, or the manifest's folds are of another number.
    TrainingError
        If nothing is labelled.
    """
    listener = reporter or Silent()
    by_slide = label_source(cohort.rows, settings.labels) in FROM_BAGS
    # every slide is tested once: splits of the table would take some out
    outside = set(external)
    free = Manifest(
        rows=tuple(replace(r, split=None) for r in cohort.rows if r.slide_id not in outside)
    )
    if by_slide:
        slides, notes = labelled_slides(free, out, seed, assign=False)
    else:
        slides, notes = training_slides(free, out, seed), label_notes(cohort.rows, settings.labels)
    if settings.data_years:
        slides = with_years(slides, cohort.rows)
    if caution := method_caution(settings, by_slide):
        notes = (*notes, f"{caution}.")
    for note in notes:
        listener.note(note)
    own = {row.slide_id: row.fold for row in cohort.rows}
    fold_of = slide_folds(
        (
            FoldSlide(s.slide_id, s.patient_id, s.label or "annotated", own.get(s.slide_id))
            for s in slides
        ),
        n_folds,
        seed,
        sites,
    )
    StatusTable(out).update_many(
        (s, "tile", "done", "", {"split": f"fold {fold}"}) for s, fold in fold_of.items()
    )
    return FoldPlan(fold_of, n_folds, slides, by_slide)


def train_folds(
    plan: FoldPlan,
    out: Path,
    settings: TrainConfig,
    *,
    device: str,
    seed: int,
    overwrite: bool,
    reporter: Reporter,
) -> tuple[FoldModel, ...]:
    """Train a model for each fold into ``out/folds/N/model``.

    Raises
    ------
    TrainingError
        If a fold leaves fewer than two classes to train on; it is named.
    """
    space = Workspace(out)
    models: list[FoldModel] = []
    renewed: set[str] = set()
    for fold in range(plan.n_folds):
        stage = f"train fold {fold} ({fold + 1} of {plan.n_folds})"
        path = space.fold_model(fold)
        path.parent.mkdir(parents=True, exist_ok=True)
        training = partial(
            learn, plan.of_fold(fold), path, settings, plan.by_slide, device, seed,
            overwrite=overwrite,
        )  # fmt: skip
        before = bundle_fingerprint(path)
        try:
            result = train_reported(training, path, stage, reporter)
        except TrainingError as error:
            raise TrainingError(
                f"fold {fold}: {error.subject}", error.problem, error.remedy
            ) from None
        for note in result.notes:
            reporter.note(f"fold {fold}: {note}")
        models.append(FoldModel(fold, path, plan.splits(fold)))
        if result.model_fingerprint != before:
            renewed |= set(plan.tested_in(models[-1]))
    if renewed:
        results_are_of_before(out, reporter, renewed)
    return tuple(models)


def nothing_learnt_in_folds(models: Sequence[FoldModel]) -> str:
    """Why the models of the folds have learnt nothing, where none of them has; else empty.

    That some have not is among the notes: few patients validate a fold.
    """
    reasons = [read_bundle_config(one.model).nothing_learnt for one in models]
    return f"no model of any fold: {reasons[0]}" if reasons and all(reasons) else ""


def predicting_models(plan: FoldPlan, models: Sequence[FoldModel]) -> tuple[FoldModel, ...]:
    """Each model with the slides it may speak of: those it tests and those that calibrate it."""
    return tuple(
        replace(
            one,
            splits={
                s: split for s, split in (one.splits or {}).items() if split in ("val", "test")
            },
        )
        for one in models
    )
