"""``train_on_slides``: checks and fingerprint; the work itself is in :mod:`.trainer`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pathology_scaat.artifacts.fingerprint import file_sha256, fingerprint
from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.training.bags.data import BagTable, make_bags
from pathology_scaat.training.bags.frozen import FrozenBagTrainer, uses_fixed_features
from pathology_scaat.training.bags.job import BagJob
from pathology_scaat.training.bags.trainer import BagTrainer
from pathology_scaat.training.bundle_config import SCHEMA_VERSION
from pathology_scaat.training.checkpoint import CHECKPOINT_NAME
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.job import work_folder
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.results import TrainingSlide, TrainProgress, TrainResult
from pathology_scaat.training.train import (
    EXECUTION_ONLY,
    check_patients,
    device_name,
    finished_training,
)

BAG_DEFAULTS_VERSION = 3
"""Raised when a default of bag learning changes: the same settings then train another model."""

NOT_FOR_BAGS = ("batch_size", "multi_label", "multi_label_min_coverage", "validation_share",
                "labels", "compile")  # fmt: skip
"""Settings that bag learning does not use, so that they do not decide its result."""
ROUNDING_ALONE = ("channels_last",)
"""Settings that change no more of a result than the last bits: models of before are the same."""


def train_on_slides(
    slides: Sequence[TrainingSlide],
    out_dir: str | Path,
    config: TrainConfig | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
    features_dir: Path | None = None,
) -> TrainResult:
    """Train on one label per slide, end to end, and save a bag model as a bundle.

    Test slides take no part, not even in the figures: they are scored once, by the prediction
    step.

    Parameters
    ----------
    slides : sequence of TrainingSlide
        Patch stores with their labels and splits.
    out_dir : str or Path
        The bundle's folder; a stopped training of the same data, settings and seed goes on.
    config : TrainConfig, optional
        Network, method, schedule; ``config.bag`` for what is particular to bags.
    class_names : tuple of str, optional
        Classes in the order of the logits; by default the labels of the slides, sorted.
    device, seed, overwrite, progress
        As :func:`pathology_scaat.training.train.train_model`.
    features_dir : Path, optional
        Where features are kept if only the head is trained (``trainable: head``, ``method:
        plain``): such an encoder looks at each patch once.

    Raises
    ------
    TrainingError
        If a patient is in two splits, stores do not belong together, a slide has no label, or
        the training slides have fewer than two classes.
    UsageError
        If several processes or several labels a slide are asked for.
    """
    settings = config or TrainConfig()
    _refuse_what_bags_cannot(settings)
    out = Path(out_dir)
    check_patients(slides)
    _check_stores(slides)
    names = class_names or tuple(sorted({s.label for s in slides if s.label}))
    positive_class(settings.positive_class, names)  # before an hour of training, not after it
    used = [slide for slide in slides if slide.split in ("train", "val")]
    identity = bag_fingerprint(used, settings, names, seed)
    if not overwrite and (done := finished_training(out, identity)) is not None:
        return done
    tables = {
        split: make_bags([s for s in used if s.split == split], names, settings.bag.of)
        for split in ("train", "val")
    }
    counts = Counter(names[k] for k in tables["train"].labels.tolist())
    if len(counts) < 2:
        found = ", ".join(f"{name}: {counts.get(name, 0)}" for name in names) or "none"
        raise TrainingError(
            "the training slides",
            f"have labels of fewer than two classes ({found})",
            "label more slides, or check the split",
        )
    job = BagJob(
        train=tables["train"],
        val=tables["val"],
        out=out,
        config=settings,
        class_names=names,
        fingerprint=identity,
        device=device_name(device),
        seed=seed,
        slides=tuple(slides),
        notes=_notes(used, settings, names, tables),
        features_dir=features_dir,
    )
    if overwrite:
        (work_folder(out) / CHECKPOINT_NAME).unlink(missing_ok=True)
    trainer = FrozenBagTrainer if uses_fixed_features(settings) else BagTrainer
    return trainer(job, progress).run()


def bag_fingerprint(
    slides: Sequence[TrainingSlide], config: TrainConfig, class_names: tuple[str, ...], seed: int
) -> str:
    """Fingerprint of everything that decides a model trained on labels of slides."""
    weights = config.backbone_weights
    settings = config.model_dump(
        mode="json",
        exclude={*EXECUTION_ONLY, *NOT_FOR_BAGS, *ROUNDING_ALONE, *config.not_given},
    )
    annotated = {}
    if config.labels == "mixed":
        prints = sorted((s.slide_id, PatchStore(s.store).meta.label_fingerprint) for s in slides)
        annotated = {"annotated": prints}
    else:
        del settings["bag"]["annotated_share"]  # decides nothing: models of before are the same
    cases = {}
    if config.bag.of == "slide":
        del settings["bag"]["of"]  # likewise
    else:
        cases = {"patients": sorted((s.slide_id, s.patient_id) for s in slides)}
    return fingerprint(
        {
            **annotated,
            **cases,
            "schema_version": SCHEMA_VERSION,
            "bag_defaults": BAG_DEFAULTS_VERSION,
            "classes": class_names,
            "data": [
                [s.slide_id, s.split, s.label, PatchStore(s.store).meta.fingerprint]
                for s in sorted(slides, key=lambda s: s.slide_id)
            ],
            "config": settings,
            "weights": file_sha256(weights) if weights and weights.is_file() else None,
            "seed": seed,
        }
    )


def _refuse_what_bags_cannot(config: TrainConfig) -> None:
    if config.multi_label:
        raise UsageError("multi_label", "is for labels of patches", "give each slide one label")
    if config.devices > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "devices", "is 1 for labels of slides", "leave it out, and start without torchrun"
        )
    if "start" in config.method_options:
        raise UsageError("method_options: start", "is for labels of patches", "set bag: start")
    if config.method == "scaat-amortised":
        raise UsageError(
            "--method", "'scaat-amortised' keeps a mask for each patch", "use scaat with bags"
        )


def _check_stores(slides: Sequence[TrainingSlide]) -> None:
    kinds = {
        (meta.grid.patch_size_px, round(meta.requested_mpp, 6))
        for meta in (PatchStore(slide.store).meta for slide in slides)
    }
    if len(kinds) > 1:
        raise TrainingError(
            "the patch stores",
            "differ in patch size or µm/px",
            "tile all slides with the same settings",
        )


def _notes(
    slides: Sequence[TrainingSlide],
    config: TrainConfig,
    class_names: tuple[str, ...],
    tables: Mapping[str, BagTable],
) -> tuple[str, ...]:
    """What is to be said of the training itself; slides by class are counted before it."""
    notes = ["Learns from one label per slide, in bags of its patches."]
    if config.bag.of == "patient":
        n_bags = {split: len(table) for split, table in tables.items()}
        notes = [
            "Learns from one label per patient: a bag is the patches of all slides of a patient "
            f"({n_bags['train']} bags to train on, {n_bags['val']} to validate)."
        ]
    there = np.bincount(tables["train"].labels, minlength=len(class_names))
    missing = [name for name, count in zip(class_names, there, strict=True) if not count]
    if missing:
        notes.append(f"No training slide of: {', '.join(missing)}.")
    with_patches = {i for table in tables.values() for i in table.slide_ids}
    empty = sorted({s.slide_id for s in slides} - with_patches)
    if empty:
        notes.append(f"Left out, since they hold no patch: {', '.join(empty)}.")
    if config.method != "plain" and config.bag.start < 1:
        notes.append(
            f"The first {config.bag.start:.0%} of the training is plain, the rest "
            f"'{config.method}'."
        )
    defaults = TrainConfig()  # a run.json names every setting, and its own defaults are no mistake
    without = sorted(
        name
        for name in config.model_fields_set & set(NOT_FOR_BAGS) - {"labels"}
        if getattr(config, name) != getattr(defaults, name)
    )
    if without:
        notes.append(f"Settings without effect on labels of slides: {', '.join(without)}.")
    notes.append(f"{positive_class(config.positive_class, class_names).note}.")
    return tuple(notes)
