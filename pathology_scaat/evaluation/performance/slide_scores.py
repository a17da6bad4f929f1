"""What a model says of whole slides, from what explaining them left: no network is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.evaluation.performance.aggregate import PATCH_RULE, top_mean
from pathology_scaat.metrics.functional.calibration import softmax
from pathology_scaat.saliency.schema import unlike_share
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint

BATCH = 128

BAG_RULE = "the model's own logits of the slide, which are the sum of its patches' contributions"


def rule_of(config: BundleConfig) -> str:
    """How a slide's probability comes about under a model, in words."""
    return BAG_RULE if config.bag is not None else PATCH_RULE


def scored_class(config: BundleConfig) -> int | None:
    """Index of the class that a slide is scored by, where two classes exclude each other."""
    if config.multi_label or len(config.class_names) != 2:
        return None
    return config.class_names.index(config.positive_class)


def positive_index(config: BundleConfig) -> int:
    """Index of the positive class, whose probability is kept by patch."""
    return config.class_names.index(config.positive_class)


@dataclass(frozen=True)
class SlideScore:
    """What a model says of a slide.

    Attributes
    ----------
    probability : (K,) float64
        Summing to one: calibrated of a model for bags, still to be calibrated of one for patches.
    unlike_training : float or None
        Share of patches that are unlike the training data; None where the model has no reference.
    patches : (N,) float32
        Probability of the positive class of each patch: of a model for bags, what the slide would
        be given if all its patches contributed as this one does.
    """

    probability: NDArray[np.float64]
    unlike_training: float | None
    patches: NDArray[np.float32]


def explained_score(
    config: BundleConfig, saliency: Path, patch_fingerprint: str
) -> SlideScore | None:
    """What a model says of a slide that it has explained; None where it has not.

    Parameters
    ----------
    config : BundleConfig
        Of the model.
    saliency : Path
        Saliency store; one of another model, or of other patches, does not count.
    patch_fingerprint : str
        Of the patch store as it is now.
    """
    try:
        store = SaliencyStore(saliency)
    except StoreError:
        return None
    meta, model_print = store.meta, model_fingerprint(config)
    if (meta.model_fingerprint, meta.patch_fingerprint) != (model_print, patch_fingerprint):
        return None
    if not len(store):
        return None
    odd = unlike_share(store.unlike)
    patches = store.probability[:, positive_index(config)]
    if config.bag is None:
        return SlideScore(top_mean(store.probability, scored_class(config)), odd, patches)
    if store.contribution is None:
        return None
    logits = store.contribution.astype(np.float64).sum(axis=0)
    return SlideScore(softmax(logits[None] / config.temperature)[0], odd, patches)
