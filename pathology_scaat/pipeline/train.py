"""``scaat train``: patch stores into a model bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pathology_scaat.artifacts.leases import lease_if_writable
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest, ManifestRow, assign_splits
from pathology_scaat.errors import StoreError, TrainingError
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.label_source import (
    bag_class_names,
    label_notes,
    label_source,
    labelled_slides,
)
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.training import (
    TrainConfig,
    TrainingSlide,
    TrainProgress,
    TrainResult,
    train_model,
)
from pathology_scaat.training.bags.train import train_on_slides


def _labelled_rows(rows: Sequence[ManifestRow], space: Workspace) -> list[ManifestRow]:
    """Rows whose store holds labelled patches, with the most frequent class as their label.

    The label serves the stratified split only; patches keep their own.
    """
    found = []
    for row in rows:
        try:
            store = PatchStore(space.patches(row.slide_id))
        except StoreError:
            continue
        labels = store.labels[store.labels >= 0]
        if labels.size:
            counts = [int((labels == k).sum()) for k in range(len(store.meta.class_names))]
            name = store.meta.class_names[counts.index(max(counts))]
            found.append(row if row.label else replace(row, label=name))
    return found


def training_slides(manifest: Manifest, out: Path, seed: int) -> tuple[TrainingSlide, ...]:
    """The slides to train on and their patient-disjoint splits.

    Splits that the manifest gives are kept; where it gives none they are made here
    (stratified by class, seeded) and recorded in ``slides.csv``.

    Raises
    ------
    TrainingError
        If no tiled slide has a labelled patch.
    """
    space = Workspace(out)
    labelled = _labelled_rows(manifest.rows, space)
    if not labelled:
        raise TrainingError(
            "the cohort",
            "has no labelled patch",
            "give annotation_path in the manifest, learn from labels of slides (--labels slide), "
            "or apply a trained model with --model",
        )
    cohort = Manifest(rows=tuple(labelled))
    if any(row.split is None for row in labelled):
        cohort = assign_splits(cohort, seed=seed)
    status = StatusTable(out)
    for row in cohort.rows:
        status.update(row.slide_id, "tile", "done", split=row.split)
    return tuple(
        TrainingSlide(
            store=space.patches(row.slide_id),
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            split=row.split or "train",
        )
        for row in cohort.rows
    )


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
    """Train on labels of slides, or of patches."""
    if by_slide:
        return train_on_slides(
            slides, model, settings, class_names=bag_class_names(slides), device=device,
            seed=seed, overwrite=overwrite, progress=progress,
        )  # fmt: skip
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
    overwrite : bool
        Train anew even where the right bundle exists.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    TrainResult
        Metrics and the path of the bundle.
    """
    listener = reporter or Silent()
    settings = config or TrainConfig()
    cohort = load_cohort(manifest)
    by_slide = label_source(cohort.rows, settings.labels) == "slide"
    if by_slide:
        slides, notes = labelled_slides(cohort, out, seed)
    else:
        slides, notes = (
            training_slides(cohort, out, seed),
            label_notes(cohort.rows, settings.labels),
        )
    for note in notes:
        listener.note(note)
    begun = False

    def tell(progress: TrainProgress) -> None:
        nonlocal begun
        if not begun:
            listener.begin("train", progress.n_epochs)
            begun = True
        listener.update("train", progress.epochs_done, progress.text)

    model = Workspace(out).model
    with lease_if_writable(model, math.inf):
        result = learn(
            slides, model, settings, by_slide, device, seed, overwrite=overwrite, progress=tell
        )
    if begun:
        listener.end("train")
    for note in result.notes:
        listener.note(note)
    return result
