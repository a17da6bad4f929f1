"""``scaat train``: patch stores into a model bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathology_scaat.artifacts.leases import lease_if_writable
from pathology_scaat.artifacts.output_folder import Workspace, claim_output
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest, ManifestRow, assign_splits
from pathology_scaat.errors import StoreError, TrainingError
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.training import (
    TrainConfig,
    TrainingSlide,
    TrainProgress,
    TrainResult,
    train_model,
)


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
            "give annotation_path or label in the manifest, or apply a trained model with --model",
        )
    cohort = Manifest(rows=tuple(labelled))
    if any(row.split is None for row in labelled):
        cohort = assign_splits(cohort, seed=seed)
    status = StatusTable(out)
    status.update_many(
        (row.slide_id, "tile", "done", "", {"split": row.split}) for row in cohort.rows
    )
    return tuple(
        TrainingSlide(
            store=space.patches(row.slide_id),
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            split=row.split or "train",
        )
        for row in cohort.rows
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
    """Train a classifier on the labelled patches of ``out/patches`` into ``out/model``.

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
    claim_output(out)
    slides = training_slides(load_cohort(manifest), out, seed)
    begun = False

    def tell(progress: TrainProgress) -> None:
        nonlocal begun
        if not begun:
            listener.begin("train", progress.n_epochs)
            begun = True
        listener.update("train", progress.epochs_done, progress.text)

    model = Workspace(out).model
    with lease_if_writable(model, math.inf):
        result = train_model(
            slides,
            model,
            settings,
            device=device,
            seed=seed,
            overwrite=overwrite,
            progress=tell,
        )
    if begun:
        listener.end("train")
    for note in result.notes:
        listener.note(note)
    return result
