"""``scaat train --features``: heads on features, no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.artifacts.notes import keep_notes
from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.cohort.column import groups_of
from pathology_scaat.cohort.external import refuse_shared_with
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.pipeline.head_cohort import (
    assign_head_splits,
    completed,
    labelled_rows,
    make_bags,
    read_feature_cohort,
    refuse_copied_features,
    truth_of,
    value_notes,
)
from pathology_scaat.pipeline.head_folds import FoldSplits, plan_head_folds, record_heads
from pathology_scaat.pipeline.head_targets import (
    HEAD,
    fold_head,
    refuse_other_heads,
    refuse_slide_models,
    target_folder,
)
from pathology_scaat.pipeline.reporting import Reporter, Silent, train_reported
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.config import Target, Unit
from pathology_scaat.training.heads.data import FeatureBag
from pathology_scaat.training.heads.settings import USED
from pathology_scaat.training.heads.train import HeadResult, train_head


def train_heads(
    manifest: Path,
    out: Path,
    features: Path,
    *,
    targets: Sequence[Target] = (Target(),),
    unit: Unit = "slide",
    config: TrainConfig | None = None,
    n_folds: int | None = None,
    preserve_site: str | None = None,
    test_manifest: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> tuple[HeadResult, ...]:
    """Train a head for each target: into ``out/head``, of several into ``out/targets/NAME/head``.

    Parameters
    ----------
    manifest : Path
        Cohort table; a column ``slide_id`` will do in place of slides.
    out : Path
    features : Path
        Folder with one ``.h5`` file a slide, named by its id.
    targets : sequence of Target
    unit : str
        What one bag is. Survival is always of patients.
    config : TrainConfig, optional
    n_folds : int, optional
        A head for each fold of cross-validation, in ``folds/N/head``, and none of all slides.
    preserve_site : str, optional
        With folds: column whose equal values stay in one fold.
    test_manifest : Path, optional
        The cohort that is to be tested on: nobody of it may be in the other table, and of that
        nobody is kept for testing. Its features need not be there yet.
    seed : int
        Of the splits and of the training.
    overwrite : bool
    reporter : Reporter, optional

    Returns
    -------
    tuple of HeadResult
        Target by target, of each fold by fold.

    Raises
    ------
    ManifestError, UsageError, StoreError, TrainingError
        If table, features and targets do not fit, or nothing can be learnt.
    """
    listener = reporter or Silent()
    settings = config or TrainConfig()
    _refuse_what_heads_cannot(settings)
    refuse_slide_models(out)
    if preserve_site is not None and n_folds is None:
        raise UsageError("--preserve-site", "does nothing without --folds", "give both")
    cohort = read_feature_cohort(manifest, features)
    refuse_copied_features(cohort)
    if test_manifest is not None:
        outside = read_manifest(test_manifest, needs_slides=False)
        refuse_shared_with(cohort.manifest, outside)
    sites: dict[str, str] | None = None
    said: tuple[str, ...] = ()
    if preserve_site is not None:
        sites, said = groups_of([(cohort.table, cohort.manifest)], preserve_site)
    folders = {target.column: target_folder(out, target, len(targets)) for target in targets}
    for folder in folders.values():
        refuse_other_heads(folder, n_folds)
    claim_output(out)
    for note in (*cohort.notes, *said):
        listener.note(note)
    results = []
    for target in targets:
        whole = completed(target, cohort)
        for note in value_notes(whole, cohort):
            listener.note(note)
        own: Unit = "patient" if whole.kind == "survival" else unit
        truth = truth_of(cohort, whole, needed=True)
        rows = labelled_rows(cohort, truth)
        split_notes: tuple[str, ...]
        if n_folds is None:
            splits, split_notes = assign_head_splits(rows, seed, with_test=test_manifest is None)
            plans: tuple[FoldSplits, ...] = (FoldSplits(None, splits),)
        else:
            plans, split_notes = plan_head_folds(rows, n_folds, seed, sites)
        folder = folders[target.column]
        folder.mkdir(parents=True, exist_ok=True)
        name = "train" if len(targets) == 1 else f"train {whole.column}"
        notes = list(split_notes)
        for plan in plans:
            bags = [b for b in make_bags(cohort, truth, own, plan.splits) if b.split]
            found = _train_one(bags, folder, plan, name, settings, whole, own, seed, overwrite,
                               listener)  # fmt: skip
            results.append(found)
            mark = "" if plan.fold is None else f"fold {plan.fold.number}: "
            notes += [mark + note for note in found.notes]
            if plan is plans[0]:
                notes.insert(0, f"{len(bags)} bags of one {own} each.")
        for note in notes:
            listener.note(note)
        keep_notes(folder, "train", [*cohort.notes, *notes])
        record_heads(
            folder,
            {
                "target": whole.model_dump(mode="json"), "unit": own, "seed": seed,
                "folds": n_folds, "preserve_site": preserve_site,
                "train": settings.model_dump(mode="json", include=USED - {"cache_bytes"}),
            },
            {"manifest": file_sha256(manifest)},
        )  # fmt: skip
    return tuple(results)


def _train_one(
    bags: Sequence[FeatureBag],
    folder: Path,
    plan: FoldSplits,
    name: str,
    settings: TrainConfig,
    target: Target,
    unit: Unit,
    seed: int,
    overwrite: bool,
    listener: Reporter,
) -> HeadResult:
    """One head: of all slides, or of a fold, which is named in what goes wrong."""
    fold = plan.fold
    path = folder / HEAD if fold is None else fold_head(folder, fold.number)
    stage = name if fold is None else f"{name} fold {fold.number + 1} of {fold.n_folds}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return train_reported(
            partial(
                train_head, bags, path, settings, target, unit=unit, seed=seed, fold=fold,
                overwrite=overwrite,
            ),
            path, stage, listener,
        )  # fmt: skip
    except TrainingError as error:
        if fold is None:
            raise
        raise TrainingError(
            f"fold {fold.number}: {error.subject}", error.problem, error.remedy
        ) from None


def _refuse_what_heads_cannot(settings: TrainConfig) -> None:
    named = settings.model_fields_set
    if "method" in named and settings.method != "plain":
        raise UsageError(
            "--method",
            f"'{settings.method}' works on pixels, and features have none",
            "leave it out, or train on slides",
        )
    for option in ("backbone", "backbone_weights"):
        if option in named:
            raise UsageError(
                "--backbone" if option == "backbone" else "--weights",
                "has no use for features that are there already",
                "leave it out",
            )
    if "trainable" in named and settings.trainable != "head":
        raise UsageError("--trainable", "is the head alone on features", "leave it out")
    if "labels" in named and settings.labels not in ("auto", "slide"):
        raise UsageError("--labels", "is slide for features", "leave it out")
