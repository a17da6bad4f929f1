"""``scaat train --features``: heads on features, no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pathology_scaat.artifacts.notes import keep_notes
from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.errors import UsageError
from pathology_scaat.pipeline.head_cohort import (
    assign_head_splits,
    completed,
    make_bags,
    read_feature_cohort,
    truth_of,
)
from pathology_scaat.pipeline.head_targets import HEAD, refuse_slide_models, target_folder
from pathology_scaat.pipeline.reporting import Reporter, Silent, train_reported
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.config import Target, Unit
from pathology_scaat.training.heads.train import HeadResult, train_head


def train_heads(
    manifest: Path,
    out: Path,
    features: Path,
    *,
    targets: Sequence[Target] = (Target(),),
    unit: Unit = "slide",
    config: TrainConfig | None = None,
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
    seed : int
        Of the splits and of the training.
    overwrite : bool
    reporter : Reporter, optional

    Raises
    ------
    ManifestError, UsageError, StoreError, TrainingError
        If table, features and targets do not fit, or nothing can be learnt.
    """
    listener = reporter or Silent()
    settings = config or TrainConfig()
    _refuse_what_heads_cannot(settings)
    refuse_slide_models(out)
    cohort = read_feature_cohort(manifest, features)
    claim_output(out)
    for note in cohort.notes:
        listener.note(note)
    results = []
    for target in targets:
        whole = completed(target, cohort)
        own: Unit = "patient" if whole.kind == "survival" else unit
        truth = truth_of(cohort, whole, needed=True)
        splits, split_notes = assign_head_splits(cohort, truth, seed)
        bags = [b for b in make_bags(cohort, truth, own, splits) if b.split]
        folder = target_folder(out, whole, len(targets))
        folder.mkdir(parents=True, exist_ok=True)
        stage = "train" if len(targets) == 1 else f"train {whole.column}"
        result = train_reported(
            partial(
                train_head, bags, folder / HEAD, settings, whole, unit=own, seed=seed,
                overwrite=overwrite,
            ),
            folder / HEAD,
            stage,
            listener,
        )  # fmt: skip
        head_notes = [f"{len(bags)} bags of one {own} each.", *split_notes, *result.notes]
        for note in head_notes:
            listener.note(note)
        keep_notes(folder, "train", [*cohort.notes, *head_notes])
        results.append(result)
    return tuple(results)


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
