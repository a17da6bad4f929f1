"""What a finished training writes of itself into its bundle, from patches as from slides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from torch import Tensor

from pathology_scaat.patches.identity import dataset_fingerprint
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.scaat.method import Method
from pathology_scaat.slides.painted import is_painted
from pathology_scaat.training.builders import Tables
from pathology_scaat.training.bundle_config import (
    Ancestor,
    BundleConfig,
    DataYears,
    SplitName,
    model_fingerprint,
    slide_mark,
)
from pathology_scaat.training.bundle_quality import HeldOut
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.class_colours import class_colours
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.job import Job
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.references import References
from pathology_scaat.training.results import TrainingSlide
from pathology_scaat.training.sampling import class_counts

NOT_RECORDED = {"backbone_weights", "cache_bytes"}
"""Settings that a bundle does not hold: a path, and what decides no result."""


class Normalising(Protocol):
    """A network that normalises its input.

    ``mean`` and ``std`` are (1, 3, 1, 1), or what flattens to three numbers on the [0, 1] scale.
    """

    @property
    def mean(self) -> Tensor:
        """Of each channel, (1, 3, 1, 1), on the [0, 1] scale."""

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel, (1, 3, 1, 1), on the [0, 1] scale."""


@dataclass(frozen=True)
class TrainingFacts:
    """What a training knows when it ends.

    Attributes
    ----------
    slides : tuple of TrainingSlide
        All that were given, also those for testing.
    stores : sequence of PatchStore
        Those that were learnt from or chose the epoch.
    training_counts : dict of class to int
        Training patches of each class, or training slides.
    unused : frozenset of str
        Settings that this kind of training does not use.
    parent : BundleConfig or None
        The model that it went on from.
    """

    config: TrainConfig
    class_names: tuple[str, ...]
    seed: int
    training_fingerprint: str
    slides: tuple[TrainingSlide, ...]
    stores: Sequence[PatchStore]
    training_counts: dict[str, int]
    metrics: dict[str, float]
    temperature: float
    held_out: HeldOut | None
    references: References | None
    notes: tuple[str, ...]
    unused: frozenset[str]
    parent: BundleConfig | None = None


def describe(made: TrainingFacts, model: Normalising, method: Method, **more: Any) -> BundleConfig:
    """The bundle's configuration; hashes and versions are added when it is saved.

    Raises
    ------
    TrainingError
        If the positive class that was asked for does not exist.
    """
    config, names, found = made.config, made.class_names, made.references
    store = made.stores[0]
    options = getattr(method, "options", None)
    return BundleConfig(
        class_names=names,
        class_colours=dict(zip(names, class_colours(names), strict=True)),
        positive_class=positive_class(config.positive_class, names).name,
        patch_size_px=store.patch_size_px,
        mpp=store.meta.requested_mpp,
        backbone=config.backbone,
        backbone_options=config.backbone_options,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        method=config.method,
        method_options=options.to_dict() if options is not None else config.method_options,
        training={
            **config.model_dump(mode="json", exclude=NOT_RECORDED | made.unused | config.not_given),
            "seed": made.seed,
        },
        dataset_fingerprint=dataset_fingerprint(s.meta for s in made.stores),
        training_fingerprint=made.training_fingerprint,
        metrics=made.metrics,
        temperature=made.temperature,
        held_out=_of_painted(made),
        slides=slide_keys(made.slides, made.training_fingerprint),
        training_counts=made.training_counts,
        data_years=data_years(made.slides, made.parent) if config.data_years else None,
        saliency_reference=found.saliency if found else None,
        evidence_reference=found.evidence if found else None,
        reference_settings=found.settings if found else None,
        notes=made.notes,
        **more,
    )


def _of_painted(made: TrainingFacts) -> HeldOut | None:
    """The record of quality, which says so where slides of the demo were learnt from.

    A model that goes on from such a one has learnt from them too.
    """
    held_out = made.held_out
    if held_out is None or not learnt_from_painted(made.stores, made.parent):
        return held_out
    return held_out.model_copy(update={"painted": True})


def learnt_from_painted(stores: Iterable[PatchStore], parent: BundleConfig | None) -> bool:
    """Whether a training sees slides of the demo, or goes on from a model that did."""
    if parent is not None and parent.of_painted:
        return True
    return any(is_painted(store.meta.slide.vendor) for store in stores)


def data_years(slides: Iterable[TrainingSlide], parent: BundleConfig | None = None) -> DataYears:
    """Years of the slides that a model learnt from or was chosen by, and of this training.

    Those of ``parent``, a model that it goes on from, are among them; a slide that served both
    counts once.
    """
    before = parent.data_years if parent is not None else None
    used = [slide for slide in slides if slide.split != "test"]
    if parent is not None and before is not None:
        used = [
            slide for slide in used
            if parent.role_of(PatchStore(slide.store).meta.slide_fingerprint)
            not in ("train", "val")
        ]  # fmt: skip
    years = [slide.scan_year for slide in used if slide.scan_year is not None]
    ends = [y for y in (before.first, before.last) if y is not None] if before else []
    return DataYears(
        trained=datetime.now(UTC).year,
        first=min([*years, *ends], default=None),
        last=max([*years, *ends], default=None),
        n_dated=len(years) + (before.n_dated if before else 0),
        n_slides=len(used) + (before.n_slides if before else 0),
    )


def slide_keys(
    slides: Iterable[TrainingSlide], training_fingerprint: str
) -> dict[SplitName, tuple[str, ...]]:
    """Which slides served for what, as keyed hashes."""
    found: dict[SplitName, set[str]] = {"train": set(), "val": set(), "test": set()}
    for slide in slides:
        print_ = PatchStore(slide.store).meta.slide_fingerprint
        found[cast(SplitName, slide.split)].add(slide_mark(print_, training_fingerprint))
    return {word: tuple(sorted(keys)) for word, keys in found.items()}


def patch_bundle_config(
    job: Job,
    model: Normalising,
    method: Method,
    tables: Tables,
    metrics: dict[str, float],
    temperature: float,
    held_out: HeldOut | None = None,
    references: References | None = None,
    notes: tuple[str, ...] = (),
) -> BundleConfig:
    """The configuration of a model that learnt from patches."""
    counts = class_counts(tables.train.labels, len(job.class_names))
    return describe(
        TrainingFacts(
            config=job.config,
            class_names=job.class_names,
            seed=job.seed,
            training_fingerprint=job.fingerprint,
            slides=job.slides,
            stores=[s for t in (tables.train, tables.val) for s in t.stores],
            training_counts={n: int(c) for n, c in zip(job.class_names, counts, strict=True)},
            metrics=metrics,
            temperature=temperature,
            held_out=held_out,
            references=references,
            notes=notes,
            unused=frozenset({"labels", "bag"}),
            parent=None if job.parent is None else read_bundle_config(job.parent),
        ),
        model,
        method,
        multi_label=job.config.multi_label,
        ancestors=_ancestors(job),
    )


def _ancestors(job: Job) -> tuple[Ancestor, ...] | None:
    """The bundle that is trained on from, after those that it was itself."""
    if job.parent is None:
        return None
    parent = read_bundle_config(job.parent)
    own = Ancestor(
        fingerprint=model_fingerprint(parent),
        method=parent.trained_by,
        training_fingerprint=parent.training_fingerprint,
        slides=parent.slides,
    )
    return (*(parent.ancestors or ()), own)
