"""What a model says of whole slides, from saliency stores or from the patches themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.errors import StoreError
from pathology_scaat.evaluation.performance.aggregate import PATCH_RULE, top_mean
from pathology_scaat.metrics.functional.calibration import sigmoid, softmax
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.predict import bag_logits, encode
from pathology_scaat.training.bundle import ModelBundle

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


def score_slide(
    bundle: ModelBundle, patches: Path, saliency: Path, device: torch.device
) -> NDArray[np.float64] | None:
    """Scores (K,) of a slide, summing to one; None where it has no patch.

    A model for bags gives calibrated probabilities; one for patches scores that are still to be
    calibrated. What explaining has computed already is used where it is of this very model.

    Raises
    ------
    StoreError
        If the patch store cannot be read.
    """
    found = _explained(bundle, saliency, PatchStore(patches).meta.fingerprint)
    if found is not None:
        return found
    return _computed(bundle, PatchStore(patches), device)


def _explained(
    bundle: ModelBundle, saliency: Path, patch_fingerprint: str
) -> NDArray[np.float64] | None:
    try:
        store = SaliencyStore(saliency)
    except StoreError:
        return None
    meta = store.meta
    if (meta.model_fingerprint, meta.patch_fingerprint) != (bundle.fingerprint, patch_fingerprint):
        return None
    if not len(store):
        return None
    if bundle.config.bag is None:
        return top_mean(store.probability, _positive(bundle))
    if store.contribution is None:
        return None
    logits = store.contribution.astype(np.float64).sum(axis=0)
    probability: NDArray[np.float64] = softmax(logits[None] / bundle.config.temperature)[0]
    return probability


def _computed(
    bundle: ModelBundle, store: PatchStore, device: torch.device
) -> NDArray[np.float64] | None:
    if not len(store):
        return None
    batches = _on_device(store, device)
    model = bundle.model
    if isinstance(model, BagModel):
        logits = bag_logits(model, encode(model, batches))
        probability: NDArray[np.float64] = softmax(logits[None] / bundle.config.temperature)[0]
        return probability
    with torch.no_grad():
        parts = [model(to_float(patches)).float().cpu().numpy() for patches in batches]
    found = np.concatenate(parts)
    values = sigmoid(found) if bundle.config.multi_label else softmax(found)
    return top_mean(values, _positive(bundle))


def _on_device(store: PatchStore, device: torch.device) -> Iterator[Tensor]:
    for patches in store.iter_batches(BATCH):
        yield torch.from_numpy(patches).to(device)
