"""What a model says of whole slides, from saliency stores or from the patches themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.errors import StoreError
from pathology_scaat.evaluation.performance.aggregate import PATCH_RULE, top_mean
from pathology_scaat.metrics.functional.calibration import sigmoid, softmax
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency.explain import unlike_share
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.predict import bag_logits, encode
from pathology_scaat.training.bundle import ModelBundle
from pathology_scaat.training.feature_reference import penultimate
from pathology_scaat.training.looks import look_statistics

BATCH = 128

BAG_RULE = "the model's own logits of the slide, which are the sum of its patches' contributions"


def rule_of(bundle: ModelBundle) -> str:
    """How a slide's probability comes about under a model, in words."""
    return BAG_RULE if bundle.config.bag is not None else PATCH_RULE


def _positive(bundle: ModelBundle) -> int | None:
    """Index of the class that a slide is scored by, where two classes exclude each other."""
    config = bundle.config
    if config.multi_label or len(config.class_names) != 2:
        return None
    return config.class_names.index(config.positive_class)


@dataclass(frozen=True)
class SlideScore:
    """What a model says of a slide.

    Attributes
    ----------
    probability : (K,) float64
        Summing to one: calibrated of a model for bags, still to be calibrated of one for patches.
    unlike_training : float or None
        Share of patches that are unlike the training data; None where the model does not tell.
    """

    probability: NDArray[np.float64]
    unlike_training: float | None


def score_slide(
    bundle: ModelBundle, patches: Path, saliency: Path, device: torch.device
) -> SlideScore | None:
    """What a model says of a slide; None where it has no patch.

    What explaining has computed already is used where it is of this very model.

    Raises
    ------
    StoreError
        If the patch store cannot be read.
    """
    found = _explained(bundle, saliency, PatchStore(patches).meta.fingerprint)
    if found is not None:
        return found
    return _computed(bundle, PatchStore(patches), device)


def _explained(bundle: ModelBundle, saliency: Path, patch_fingerprint: str) -> SlideScore | None:
    try:
        store = SaliencyStore(saliency)
    except StoreError:
        return None
    meta = store.meta
    if (meta.model_fingerprint, meta.patch_fingerprint) != (bundle.fingerprint, patch_fingerprint):
        return None
    if not len(store):
        return None
    odd = unlike_share(store.unlike)
    if bundle.config.bag is None:
        return SlideScore(top_mean(store.probability, _positive(bundle)), odd)
    if store.contribution is None:
        return None
    logits = store.contribution.astype(np.float64).sum(axis=0)
    return SlideScore(softmax(logits[None] / bundle.config.temperature)[0], odd)


def _computed(bundle: ModelBundle, store: PatchStore, device: torch.device) -> SlideScore | None:
    if not len(store):
        return None
    looks: list[Tensor] = []
    batches = _looked_at(_on_device(store, device), looks)
    model = bundle.model
    if isinstance(model, BagModel):
        features = encode(model, batches)
        logits = bag_logits(model, features)
        probability = softmax(logits[None] / bundle.config.temperature)[0]
        return SlideScore(probability, _unlike(bundle, [features], looks))
    with torch.no_grad(), penultimate(model) as kept:
        parts = [model(to_float(patches)).float().cpu().numpy() for patches in batches]
    # As explaining does: what a slide scores must not hang on whether it was explained before.
    found = np.concatenate(parts) / bundle.config.temperature
    values = sigmoid(found) if bundle.config.multi_label else softmax(found)
    return SlideScore(top_mean(values, _positive(bundle)), _unlike(bundle, kept, looks))


def _unlike(bundle: ModelBundle, features: list[Tensor], looks: list[Tensor]) -> float | None:
    """Share of patches unlike the training data, from their features and looks."""
    if bundle.features is None or not features:
        return None
    seen, shown = torch.cat(features).cpu().numpy(), torch.cat(looks).cpu().numpy()
    return unlike_share(bundle.features.percentile(seen, shown))


def _looked_at(batches: Iterator[Tensor], looks: list[Tensor]) -> Iterator[Tensor]:
    """The same batches, (n, P, P, 3) uint8; what they look like is kept beside."""
    for patches in batches:
        looks.append(look_statistics(to_float(patches)))
        yield patches


def _on_device(store: PatchStore, device: torch.device) -> Iterator[Tensor]:
    for patches in store.iter_batches(BATCH):
        yield torch.from_numpy(patches).to(device)
