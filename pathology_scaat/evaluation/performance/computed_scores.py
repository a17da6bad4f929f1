"""What a model says of a slide that it has not explained: computed from the patches themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pathology_scaat.evaluation.performance.aggregate import top_mean
from pathology_scaat.evaluation.performance.slide_scores import (
    BATCH,
    SlideScore,
    positive_index,
    scored_class,
)
from pathology_scaat.metrics.functional.calibration import sigmoid, softmax
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency.schema import unlike_share
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.predict import bag_logits, encode
from pathology_scaat.training.bags.slopes import patch_probability
from pathology_scaat.training.bundle import ModelBundle
from pathology_scaat.training.feature_reference import penultimate
from pathology_scaat.training.looks import look_statistics


def computed_score(
    bundle: ModelBundle, store: PatchStore, device: torch.device
) -> SlideScore | None:
    """What a model says of the patches of a store; None where it has no patch.

    Raises
    ------
    StoreError
        If the store cannot be read, or holds no pixels.
    """
    if not len(store):
        return None
    looks: list[Tensor] = []
    batches = _looked_at(_on_device(store, device), looks)
    model = bundle.model
    if isinstance(model, BagModel):
        features = encode(model, batches)
        logits = bag_logits(model, features)
        probability = softmax(logits[None] / bundle.config.temperature)[0]
        with torch.no_grad():
            contributions = model.head.contributions(features)
        positive = positive_index(bundle.config)
        patches = patch_probability(contributions, bundle.config.temperature)[:, positive]
        return SlideScore(probability, _unlike(bundle, [features], looks), patches.cpu().numpy())
    with torch.no_grad(), penultimate(model) as kept:
        parts = [model(to_float(patches)).float().cpu().numpy() for patches in batches]
    # As explaining does: what a slide scores must not hang on whether it was explained before.
    found = np.concatenate(parts) / bundle.config.temperature
    values = sigmoid(found) if bundle.config.multi_label else softmax(found)
    return SlideScore(
        top_mean(values, scored_class(bundle.config)),
        _unlike(bundle, kept, looks),
        values[:, positive_index(bundle.config)].astype(np.float32),
    )


def computed_case(
    bundle: ModelBundle, stores: Sequence[PatchStore], device: torch.device
) -> list[SlideScore] | None:
    """What a model of cases says of the slides of one; None where none has a patch.

    Returns
    -------
    list of SlideScore
        One a store; the probability is the case's in all of them.

    Raises
    ------
    StoreError
        If a store cannot be read, or holds no pixels.
    """
    model = bundle.model
    assert isinstance(model, BagModel)  # noqa: S101  (for the type checker)
    features, odd = [], []
    for store in stores:
        looks: list[Tensor] = []
        features.append(encode(model, _looked_at(_on_device(store, device), looks)))
        odd.append(_unlike(bundle, [features[-1]], looks) if len(store) else None)
    bag = torch.cat([f.to(device) for f in features])
    if not len(bag):
        return None
    warm = bundle.config.temperature
    probability = softmax(bag_logits(model, bag)[None] / warm)[0]
    with torch.no_grad():
        chance = patch_probability(model.head.contributions(bag), warm)
    parts = chance[:, positive_index(bundle.config)].cpu().numpy()
    ends = np.cumsum([len(f) for f in features])
    return [
        SlideScore(probability, share, part)
        for share, part in zip(odd, np.split(parts, ends[:-1]), strict=True)
    ]


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
