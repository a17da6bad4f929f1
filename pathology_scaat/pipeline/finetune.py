"""``scaat finetune``: go on training a finished model, with SCAAT, for a few epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace, claim_output
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest, assign_splits
from pathology_scaat.errors import BundleError, TrainingError, UsageError
from pathology_scaat.execution.devices import require_device
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.identity import dataset_fingerprint
from pathology_scaat.pipeline.class_table import class_table_notes, count_classes
from pathology_scaat.pipeline.data_years import with_years
from pathology_scaat.pipeline.preflight import check_training
from pathology_scaat.pipeline.reporting import Reporter, train_noted
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.same_slides import refuse_copies
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.pipeline.train import (
    LabelledRow,
    TrainingCohort,
    labelled_rows,
    refuse_no_patch,
)
from pathology_scaat.saliency.explanation import check_match
from pathology_scaat.system.names import shown_names
from pathology_scaat.training import TrainingSlide, TrainResult
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.finetune import FinetuneConfig, finetune_settings
from pathology_scaat.training.imported.record import SCRIPT_BACKBONE
from pathology_scaat.training.method_cautions import method_caution

HEAD_ALONE = (
    "The head alone is trained, as in the model's own training: the encoder stays as it is, so "
    "that the gradient's map can hardly change."
)
_SERVED = {"train": "trained on it", "val": "chose its epoch by it", "test": "was tested on it"}


def finetune_cohort(
    manifest: Manifest, out: Path, parent: BundleConfig, seed: int
) -> TrainingCohort:
    """The slides to go on training with; what the model has seen of them decides their splits.

    A slide that served the model for training, validation or test serves for the same again,
    with all slides of its patient. Slides of patients new to it keep the manifest's split, or
    are given one. Nothing is written.

    Raises
    ------
    TrainingError
        If no slide has labelled patches, a store does not fit the model, or the manifest wants a
        slide of a patient whom the model knows from one split in another.
    ManifestError
        If one slide is there under two patients.
    """
    space = Workspace(out)
    labelled = labelled_rows(manifest.rows, space)
    if not labelled:
        refuse_no_patch(StatusTable(out))
        raise TrainingError(
            "the cohort", "has no labelled patch", "give annotation_path in the manifest, and tile"
        )
    refuse_copies([one.row for one in labelled], [one.slide_fingerprint for one in labelled])
    for one in labelled:
        _check_fits(PatchStore(space.patches(one.row.slide_id)), parent, one.row.slide_id)
    fixed = _splits_of_patients(labelled, parent)
    rows = []
    for one in labelled:
        known = fixed.get(one.row.patient_id)
        if known and one.row.split and one.row.split != known:
            raise TrainingError(
                one.row.slide_id,
                f"is for '{one.row.split}' by the manifest, and the model {_SERVED[known]}, or on "
                "another slide of its patient",
                f"give it the split '{known}', or leave it out",
            )
        rows.append(replace(one.row, split=known or one.row.split))
    assigned = assign_splits(
        Manifest(rows=tuple(rows)),
        seed=seed,
        classes={one.row.slide_id: one.classes for one in labelled},
    )
    slides = tuple(
        TrainingSlide(
            store=space.patches(row.slide_id),
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            split=row.split or "train",
        )
        for row in assigned.rows
    )
    notes = (*_role_notes(labelled, fixed, parent), *_block_notes(slides, parent, seed))
    counts = {one.row.slide_id: one.counts for one in labelled}
    return TrainingCohort(slides, (*assigned.notes, *notes), count_classes(slides, counts))


def _block_notes(
    slides: Sequence[TrainingSlide], parent: BundleConfig, seed: int
) -> tuple[str, ...]:
    """What to say where blocks of training slides are held out that the model may have seen."""
    if any(slide.split == "val" for slide in slides):
        return ()
    learnt_from = (PatchStore(slide.store).meta for slide in slides if slide.split != "test")
    same = parent.dataset_fingerprint == dataset_fingerprint(learnt_from)
    if same and parent.training.get("seed") == seed and parent.ancestors is None:
        return ()
    return (
        "No slide is for validation, and the model was trained on other slides or with another "
        "seed: blocks that are held out now may be among what it learnt from, and the figures "
        "of validation may be too good.",
    )


def _check_fits(store: PatchStore, parent: BundleConfig, slide_id: str) -> None:
    check_match(store.meta, parent, slide_id)
    if store.meta.class_names != parent.class_names:
        raise TrainingError(
            slide_id,
            f"has the classes {', '.join(store.meta.class_names)}, the model "
            f"{', '.join(parent.class_names)}",
            f'tile again with --classes "{",".join(parent.class_names)}"',
        )


def _splits_of_patients(labelled: Sequence[LabelledRow], parent: BundleConfig) -> dict[str, str]:
    """The split of each patient of whom the model has seen a slide."""
    found: dict[str, tuple[str, str]] = {}
    for one in labelled:
        role = parent.role_of(one.slide_fingerprint)
        if role not in _SERVED:
            continue
        slide_id, before = found.setdefault(one.row.patient_id, (one.row.slide_id, role))
        if before != role:
            raise TrainingError(
                f"slides {slide_id} and {one.row.slide_id}",
                f"are of one patient, and served the model for '{before}' and for '{role}'",
                "correct the patient ids, or leave one of them out",
            )
    return {patient: role for patient, (_, role) in found.items()}


def _role_notes(
    labelled: Sequence[LabelledRow], fixed: dict[str, str], parent: BundleConfig
) -> tuple[str, ...]:
    """What the slides are to the model, in sentences."""
    if any(parent.role_of(one.slide_fingerprint) == "unknown" for one in labelled):
        return (
            "The model does not record every slide that it was trained on, or records them under "
            "other pseudonyms: whether the slides for "
            "validation and test are new to it is NOT known, and their figures may be optimistic.",
        )
    notes = []
    for role, words in (
        ("train", "are trained on again"),
        ("val", "choose the epoch again"),
        ("test", "test again and are not trained on"),
    ):
        n = sum(fixed.get(one.row.patient_id) == role for one in labelled)
        if n:
            notes.append(f"{n} slide(s) of patients that served the model for {role} {words}.")
    new = [one.row.slide_id for one in labelled if one.row.patient_id not in fixed]
    if new:
        notes.append(f"{len(new)} slide(s) are of patients new to the model: {shown_names(new)}.")
    return tuple(notes)


def _check_target(target: Path, model: Path, parent: str, overwrite: bool) -> None:
    """Refuse to write over the model itself, what is no model, or another model unasked."""
    if target.resolve() == model.resolve():
        raise UsageError("--to", "is the model itself, which would be lost", "give another folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        there = read_bundle_config(target)
    except BundleError:
        raise UsageError(
            "--to", f"'{target.name}' is there already and is no model", "give another folder"
        ) from None
    of_this = there.ancestors is not None and there.ancestors[-1].fingerprint == parent
    if not of_this and not overwrite:
        raise UsageError(
            "--to",
            f"'{target.name}' holds a model that was not fine-tuned from this one",
            "give another folder, or --overwrite",
        )


def finetune(
    manifest: Path | Manifest,
    out: Path,
    model: Path,
    *,
    to: Path | None = None,
    config: FinetuneConfig | None = None,
    device: str = "auto",
    seed: int | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Go on training a model on the patches in ``out/patches``, into a bundle of its own.

    Parameters
    ----------
    manifest : Path or Manifest
        The cohort that was tiled; who serves for what is the model's own record's to say first.
    out : Path
        Output folder of ``tile``.
    model : Path
        Bundle to begin with; it stays as it is.
    to : Path, optional
        The new bundle; ``out/finetuned`` if none.
    config : FinetuneConfig, optional
        Method (SCAAT by default), epochs and learning rate.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    seed : int, optional
        Seed of splits and training; the model's own by default, so that blocks that were held
        out of its training slides are held out again.
    overwrite : bool
        Train anew even where the right bundle exists.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    TrainResult
        Metrics, those of the model before as ``parent_*``, and the path of the new bundle.

    Raises
    ------
    UsageError
        If the model is one for bags or a TorchScript program, or would be overwritten.
    TrainingError
        See :func:`finetune_cohort`.
    """
    listener = logged(reporter, out, "finetune")
    require_device(device)
    parent = read_bundle_config(model)
    if parent.bag is not None:
        raise UsageError(
            "--model", "was trained on labels of slides, in bags", "train it anew with 'train'"
        )
    if parent.backbone == SCRIPT_BACKBONE:
        raise UsageError(
            "--model",
            "is a TorchScript program, whose weights cannot be kept apart from it",
            "import its weights with --backbone NAME, and fine-tune that",
        )
    settings = finetune_settings(parent, config or FinetuneConfig())
    check_training(settings, parent.patch_size_px)
    claim_output(out)
    target = to or Workspace(out).finetuned
    _check_target(target, model, model_fingerprint(parent), overwrite)
    if seed is None:
        recorded = parent.training.get("seed", 0)
        seed = recorded if isinstance(recorded, int) and recorded >= 0 else 0
    cohort = load_cohort(manifest)
    found = finetune_cohort(cohort, out, parent, seed)
    if settings.data_years:
        found = replace(found, slides=with_years(found.slides, cohort.rows))
    notes = (*class_table_notes(found.class_counts), *found.notes)
    if settings.trainable == "head" and settings.method != "plain":
        notes = (*notes, HEAD_ALONE)
    if caution := method_caution(settings, False, pretrained=bool(parent.began)):
        notes = (*notes, f"{caution}.")
    from pathology_scaat.training import train_model  # needs torch

    return train_noted(
        partial(
            train_model, found.slides, target, settings, device=device, seed=seed,
            overwrite=overwrite, parent=model,
        ),
        target,
        out,
        "finetune",
        notes,
        listener,
    )  # fmt: skip
