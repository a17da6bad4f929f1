"""What a model says of whole slides, from what explaining them left: no network is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.evaluation.performance.aggregate import PATCH_RULE, top_mean
from pathology_scaat.metrics.functional.calibration import softmax
from pathology_scaat.saliency.explanation import CASE
from pathology_scaat.saliency.schema import unlike_share
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint

BATCH = 128

CASE_RULE = (
    "the model's own logits of the case: the sum of what the patches of all slides of the patient "
    "contribute; every slide of the patient has its case's prediction"
)
BAG_RULE = "the model's own logits of the slide, which are the sum of its patches' contributions"


def rule_of(config: BundleConfig) -> str:
    """How a slide's probability comes about under a model, in words."""
    if config.bag_of is not None:
        return CASE_RULE
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


def explained_case(
    config: BundleConfig, saliency: Sequence[Path], patch_fingerprints: Sequence[str]
) -> list[SlideScore] | None:
    """What a model of cases says of a case whose slides it has explained together; None if not.

    Parameters
    ----------
    config : BundleConfig
        Of the model.
    saliency : sequence of Path
        Saliency stores of all slides of the case.
    patch_fingerprints : sequence of str
        Of their patch stores as they are now.

    Returns
    -------
    list of SlideScore
        One a slide; the probability is the case's in all of them.
    """
    stores = []
    for number, path in enumerate(saliency):
        own = patch_fingerprints[number]
        others = sorted([*patch_fingerprints[:number], *patch_fingerprints[number + 1 :]])
        try:
            store = SaliencyStore(path)
        except StoreError:
            return None
        meta = store.meta
        same = (meta.model_fingerprint, meta.patch_fingerprint) == (model_fingerprint(config), own)
        if not same or store.contribution is None or meta.parameters.get(CASE) != others:
            return None
        stores.append(store)
    parts = [store.contribution for store in stores if store.contribution is not None]
    if not sum(map(len, parts)):
        return None
    logits = np.sum([part.astype(np.float64).sum(axis=0) for part in parts], axis=0)
    probability = softmax(logits[None] / config.temperature)[0]
    positive = positive_index(config)
    return [
        SlideScore(probability, unlike_share(s.unlike), s.probability[:, positive]) for s in stores
    ]


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
