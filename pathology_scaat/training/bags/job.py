"""A bag training as a value, and what its bundle says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathology_scaat.scaat.method import Method
from pathology_scaat.training.bags.data import BagTable
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.bundle_quality import HeldOut
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.description import TrainingFacts, describe
from pathology_scaat.training.references import References
from pathology_scaat.training.results import TrainingSlide


@dataclass(frozen=True)
class BagJob:
    """What a bag training starts from.

    Attributes
    ----------
    train, val : BagTable
        Bags that are learnt from, and those that choose the epoch and calibrate.
    slides : tuple of TrainingSlide
        All that were given, also those for testing, which take no part.
    features_dir : Path, optional
        Where features of an encoder that is not trained are kept; else in memory alone.
    """

    train: BagTable
    val: BagTable
    out: Path
    config: TrainConfig
    class_names: tuple[str, ...]
    fingerprint: str
    device: str
    seed: int
    slides: tuple[TrainingSlide, ...] = ()
    notes: tuple[str, ...] = ()
    features_dir: Path | None = None

    @property
    def n_classes(self) -> int:
        return len(self.class_names)


def bag_bundle_config(
    job: BagJob,
    model: BagModel,
    method: Method,
    metrics: dict[str, float],
    temperature: float,
    held_out: HeldOut | None,
    references: References | None,
    notes: tuple[str, ...],
) -> BundleConfig:
    """The configuration of a model that learnt from labels of slides."""
    counts = np.bincount(job.train.labels, minlength=job.n_classes)
    described = describe(
        TrainingFacts(
            config=job.config,
            class_names=job.class_names,
            seed=job.seed,
            training_fingerprint=job.fingerprint,
            slides=job.slides,
            stores=[*job.train.patches.stores, *job.val.patches.stores],
            training_counts={n: int(c) for n, c in zip(job.class_names, counts, strict=True)},
            metrics=metrics,
            temperature=temperature,
            held_out=held_out,
            references=references,
            notes=notes,
            unused=frozenset(),
        ),
        model,
        method,
        bag=job.config.bag.head(),
    )
    if job.config.bag.of == "slide":
        return described
    return described.model_copy(update={"bag_of": job.config.bag.of})
