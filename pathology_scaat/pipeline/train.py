"""``scaat train``: patch stores into a model bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pathology_scaat.artifacts.output_folder import Workspace, claim_output
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest, ManifestRow, assign_splits
from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.execution.devices import require_device
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches.stored_labels import LabelCounts, count_labels, over_stores
from pathology_scaat.pipeline.class_table import (
    ClassCount,
    class_table_notes,
    classes_in,
    count_classes,
)
from pathology_scaat.pipeline.data_years import with_years
from pathology_scaat.pipeline.label_source import (
    FROM_BAGS,
    bag_class_names,
    label_notes,
    label_source,
    labelled_slides,
)
from pathology_scaat.pipeline.new_model import results_are_of_before
from pathology_scaat.pipeline.preflight import check_training
from pathology_scaat.pipeline.reporting import Reporter, train_noted
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.same_slides import refuse_copies
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.training import (
    TrainConfig,
    TrainingSlide,
    TrainProgress,
    TrainResult,
)
from pathology_scaat.training.method_cautions import method_caution
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.run_bundles import bundle_fingerprint

FEATURES = "features"
"""Folder beside the patches where features of an encoder that is not trained are kept."""


@dataclass(frozen=True)
class LabelledRow:
    """A row whose store holds labelled patches; its label is the most frequent class there.

    That label serves the stratified split only; patches keep their own.
    """

    row: ManifestRow
    counts: LabelCounts

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that its patches have."""
        return self.counts.present

    @property
    def slide_fingerprint(self) -> str:
        """Of the slide that was tiled."""
        return self.counts.slide_fingerprint


def refuse_no_patch(status: StatusTable) -> None:
    """Refuse a cohort of which no slide gave any patch: labels are not what it lacks.

    Raises
    ------
    TrainingError
    """
    counts = {text for text in status.column("n_patches").values() if text}
    if counts == {"0"}:
        raise TrainingError(
            "the cohort",
            "has no patch: on no slide one holds enough tissue",
            "check --mpp (or --mag) and --patch-size against the slides' size, and what slides.csv "
            "says of their tissue",
        )


def labelled_rows(
    rows: Sequence[ManifestRow],
    space: Workspace,
    engine: EngineConfig | None = None,
    announce: Callable[[str], None] | None = None,
) -> list[LabelledRow]:
    """The rows that have a store with labelled patches in an output folder.

    A slide whose last tiling failed is not among them: a store of it is of an earlier run.

    Parameters
    ----------
    rows : sequence of ManifestRow
    space : Workspace
        Output folder of ``tile``.
    engine : EngineConfig, optional
        Where the stores are read, one job per slide; in this process by default.
    announce : callable, optional
        Called with one sentence that a user should read of a cluster.
    """
    tiled = StatusTable(space.out).without_failed("tile", (row.slide_id for row in rows))
    stores = {slide_id: space.patches(slide_id) for slide_id in tiled}
    counted = over_stores(count_labels, stores, engine, skip_unreadable=True, announce=announce)
    found = []
    for row in rows:
        own = counted.get(row.slide_id)
        if own is not None and any(own.counts):
            name = own.class_names[int(np.argmax(own.counts))]
            found.append(LabelledRow(row if row.label else replace(row, label=name), own))
    return found


@dataclass(frozen=True)
class TrainingCohort:
    """Slides with their splits, what each split has of each class, and notes on the splits."""

    slides: tuple[TrainingSlide, ...]
    notes: tuple[str, ...]
    class_counts: tuple[ClassCount, ...]


def training_cohort(
    manifest: Manifest,
    out: Path,
    seed: int | None,
    engine: EngineConfig | None = None,
    announce: Callable[[str], None] | None = None,
) -> TrainingCohort:
    """The slides to train on and their patient-disjoint splits.

    Splits that the manifest gives are kept; where it gives none they are made here
    (stratified by class, every class in training first, seeded) and recorded in
    ``slides.csv``. With ``seed`` None those that ``slides.csv`` has are taken, where it has one for
    every slide, else seed 0. Labels are read where the engine says (:func:`labelled_rows`).

    Raises
    ------
    TrainingError
        If no tiled slide has a labelled patch.
    ManifestError
        If one slide is there under two patients.
    """
    space = Workspace(out)
    labelled = labelled_rows(manifest.rows, space, engine, announce)
    if not labelled:
        refuse_no_patch(StatusTable(out))
        raise TrainingError(
            "the cohort",
            "has no labelled patch",
            "give annotation_path in the manifest, learn from labels of slides (--labels slide), "
            "or apply a trained model with --model",
        )
    refuse_copies([one.row for one in labelled], [one.slide_fingerprint for one in labelled])
    status = StatusTable(out)
    manifest_rows = Manifest(rows=tuple(one.row for one in labelled))
    if seed is None and any(row.split is None for row in manifest_rows.rows):
        manifest_rows = _with_recorded_splits(manifest_rows, status)
    # Also where all splits are given: what they leave out is said all the same.
    cohort = assign_splits(
        manifest_rows,
        seed=seed or 0,
        classes={one.row.slide_id: one.classes for one in labelled},
    )
    patients = manifest.patient_keys()
    status.update_many(
        (
            row.slide_id,
            "tile",
            "done",
            "",
            {"split": row.split, "patient": patients.get(row.slide_id)},
        )
        for row in cohort.rows
    )
    slides = tuple(
        TrainingSlide(
            store=space.patches(row.slide_id),
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            split=row.split or "train",
        )
        for row in cohort.rows
    )
    counts = {one.row.slide_id: one.counts for one in labelled}
    return TrainingCohort(slides, cohort.notes, count_classes(slides, counts))


def training_slides(manifest: Manifest, out: Path, seed: int | None) -> tuple[TrainingSlide, ...]:
    """The slides of :func:`training_cohort` alone."""
    return training_cohort(manifest, out, seed).slides


def notes_before(cohort: TrainingCohort, settings: TrainConfig) -> tuple[str, ...]:
    """Notes before training: classes by split, how slides were split, and the positive class."""
    from pathology_scaat.training.builders import one_class_notes  # needs torch

    counts = cohort.class_counts
    names = tuple(dict.fromkeys(count.class_name for count in counts))
    one_class = [
        note
        for split in ("val", "test")
        for note in one_class_notes(split, classes_in(counts, split))
    ]
    positive_note = f"{positive_class(settings.positive_class, names).note}."
    return (*class_table_notes(counts), *cohort.notes, *one_class, positive_note)


def _with_recorded_splits(cohort: Manifest, status: StatusTable) -> Manifest:
    """The cohort with the splits of the status table, where they are whole and of use."""
    recorded = {row["slide_id"]: row["split"] for row in status.rows()}
    rows = tuple(
        replace(row, split=row.split or recorded.get(row.slide_id) or None) for row in cohort.rows
    )
    of_patient: dict[str, set[str | None]] = {}
    for row in rows:
        of_patient.setdefault(row.patient_id, set()).add(row.split)
    whole = all(row.split in ("train", "val", "test") for row in rows)
    apart = all(len(splits) == 1 for splits in of_patient.values())
    return replace(cohort, rows=rows) if whole and apart else cohort


def learn(
    slides: Sequence[TrainingSlide],
    model: Path,
    settings: TrainConfig,
    by_slide: bool,
    device: str,
    seed: int,
    *,
    overwrite: bool,
    progress: Callable[[TrainProgress], None] | None,
) -> TrainResult:
    """Train on labels of slides, or of patches.

    Raises
    ------
    UsageError
        If bags of patients are asked for where patches are learnt from.
    TrainingError
        If nothing can be learnt from these slides.
    """
    # Both need torch, which a run whose model is given does not wait for here.
    if by_slide:
        from pathology_scaat.training.bags.train import train_on_slides

        return train_on_slides(
            slides, model, settings, class_names=bag_class_names(slides), device=device,
            seed=seed, overwrite=overwrite, progress=progress,
            features_dir=Path(slides[0].store).parent.parent / FEATURES,
        )  # fmt: skip
    if settings.bag.of == "patient":
        raise UsageError(
            "--bags-of", "patient is for labels of slides, and patches are learnt from here",
            "leave it out, or give --labels slide",
        )  # fmt: skip
    from pathology_scaat.training import train_model

    return train_model(
        slides, model, settings, device=device, seed=seed, overwrite=overwrite, progress=progress
    )


def train(
    manifest: Path | Manifest,
    out: Path,
    *,
    config: TrainConfig | None = None,
    device: str = "auto",
    seed: int = 0,
    engine: EngineConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train on the patches in ``out/patches`` into ``out/model``: by their labels, or the slides'.

    Parameters
    ----------
    manifest : Path or Manifest
        The cohort that was tiled; its splits and patients decide who validates.
    out : Path
        Output folder of ``tile``.
    config : TrainConfig, optional
        Backbone, method (SCAAT by default) and schedule.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    seed : int
        Seed of the split and of training.
    engine : EngineConfig, optional
        Where the labels of the stores are read before training, one job per slide (in this
        process by default). Training itself runs in this process, on its device.
    overwrite : bool
        Train anew even where the right bundle exists.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    TrainResult
        Metrics and the path of the bundle.

    Raises
    ------
    UsageError
        If the device does not exist, or a setting is impossible.
    TrainingError
        If there is nothing to learn from.
    ManifestError
        If one slide is there under two patients.

    Examples
    --------
    With the cohort and the folder that :func:`pathology_scaat.tile` was given, one epoch of a
    small network:

    >>> import pathology_scaat as ps
    >>> from pathology_scaat.training import TrainConfig
    >>> settings = TrainConfig(backbone="scaat-small", epochs=1)
    >>> result = ps.train(manifest, out, config=settings, device="cpu")
    >>> result.bundle_path == out / "model"
    True
    """
    listener = logged(reporter, out, "train")
    settings = config or TrainConfig()
    require_device(device)
    check_training(settings)
    claim_output(out)
    cohort = load_cohort(manifest)
    by_slide = label_source(cohort.rows, settings.labels) in FROM_BAGS
    if by_slide:
        slides, notes = labelled_slides(cohort, out, seed, engine=engine, announce=listener.note)
        chosen = positive_class(settings.positive_class, bag_class_names(slides))
        notes = (*notes, f"{chosen.note}.")
    else:
        found = training_cohort(cohort, out, seed, engine, listener.note)
        slides, notes = found.slides, notes_before(found, settings)
        notes = (*label_notes(cohort.rows, settings.labels), *notes)
    if caution := method_caution(settings, by_slide):
        notes = (*notes, f"{caution}.")
    if settings.data_years:
        slides = with_years(slides, cohort.rows)
    for note in cohort.notes:
        listener.note(note)
    model = Workspace(out).model
    before = bundle_fingerprint(model)
    result = train_noted(
        partial(learn, slides, model, settings, by_slide, device, seed, overwrite=overwrite),
        model,
        out,
        "train",
        notes,
        listener,
    )
    if result.model_fingerprint != before:
        results_are_of_before(out, listener)
    return result
