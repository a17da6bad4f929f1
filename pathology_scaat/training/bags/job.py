"""A bag training as a value, and the bundle that it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.patches.identity import dataset_fingerprint
from pathology_scaat.scaat.method import Method
from pathology_scaat.training.bags.data import BagTable
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bundle import save_bundle
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.positive_class import positive_class


@dataclass(frozen=True)
class BagJob:
    """What a bag training starts from.

    Attributes
    ----------
    train, val : BagTable
        Bags that are learnt from, and those that choose the epoch and calibrate.
    """

    train: BagTable
    val: BagTable
    out: Path
    config: TrainConfig
    class_names: tuple[str, ...]
    fingerprint: str
    device: str
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        return len(self.class_names)


def save_bag_bundle(
    job: BagJob,
    model: BagModel,
    method: Method,
    metrics: dict[str, float],
    temperature: float,
    training_log: str,
    notes: tuple[str, ...],
) -> BundleConfig:
    """Write the bundle of a bag model; the configuration as written."""
    config = job.config
    store = job.train.patches.stores[0]
    stores = [*job.train.patches.stores, *job.val.patches.stores]
    options = getattr(method, "options", None)
    settings = BundleConfig(
        class_names=job.class_names,
        positive_class=positive_class(config.positive_class, job.class_names).name,
        patch_size_px=store.patch_size_px,
        mpp=store.meta.requested_mpp,
        backbone=config.backbone,
        backbone_options=config.backbone_options,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        method=config.method,
        method_options=options.to_dict() if options is not None else config.method_options,
        training={
            **config.model_dump(mode="json", exclude={"backbone_weights", "cache_bytes"}),
            "seed": job.seed,
        },
        dataset_fingerprint=dataset_fingerprint(s.meta for s in stores),
        training_fingerprint=job.fingerprint,
        metrics=metrics,
        notes=notes,
        temperature=temperature,
        bag=config.bag.head(),
    )
    # WSInfer's programs classify patches one by one: this is no model of that kind
    return save_bundle(job.out, model, settings, training_log=training_log, wsinfer=False)
