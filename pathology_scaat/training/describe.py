"""What a finished training says about itself."""

from __future__ import annotations

from pathology_scaat.errors import TrainingError
from pathology_scaat.provenance import fingerprint
from pathology_scaat.scaat.method import Method
from pathology_scaat.training.backbones import Classifier
from pathology_scaat.training.bundle import BundleConfig
from pathology_scaat.training.job import Job
from pathology_scaat.training.setup import Tables, default_positive_class


def bundle_config(
    job: Job,
    model: Classifier,
    method: Method,
    tables: Tables,
    metrics: dict[str, float],
    temperature: float,
) -> BundleConfig:
    """The bundle's configuration; hashes and versions are added when it is saved.

    Raises
    ------
    TrainingError
        If the positive class that was asked for does not exist.
    """
    config, names = job.config, job.class_names
    store = tables.train.stores[0]
    positive = config.positive_class or default_positive_class(names)
    if positive not in names:
        raise TrainingError(
            "positive_class", f"'{positive}' is no class", f"choose from {', '.join(names)}"
        )
    options = getattr(method, "options", None)
    stores = [s for t in (tables.train, tables.val) for s in t.stores]
    return BundleConfig(
        class_names=names,
        positive_class=positive,
        multi_label=config.multi_label,
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
        dataset_fingerprint=fingerprint({"stores": sorted({s.meta.fingerprint for s in stores})}),
        training_fingerprint=job.fingerprint,
        metrics=metrics,
        temperature=temperature,
    )
