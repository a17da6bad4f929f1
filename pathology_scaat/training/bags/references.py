"""What a finished bag model's maps and features look like on slides it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.scaat.gradients import input_gradient
from pathology_scaat.scaat.map_layers import MapLayers
from pathology_scaat.scaat.target import evaluating
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.data import BagTable
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.slopes import SlopedEncoder, patch_probability, slide_slopes
from pathology_scaat.training.bundle_config import ReferenceSettings
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.feature_reference import FeatureReference
from pathology_scaat.training.references import (
    BATCH,
    MOST_FEATURES,
    MOST_MAPS,
    References,
    features_of,
    layers_of_maps,
    map_stride_px,
    method_by,
    spread,
    spreads_of_maps,
)

OUTPUT = "margin"
MOST_SLIDES = 64
MEASURED = ("fused-cam",)
"""What finds tumour in models for bags: asked of convolutional encoders alone."""
TableFeatures = tuple[PatchTable, NDArray[np.float32]]
"""Patches and their features, (N, F)."""


def measure_bag_references(
    model: BagModel,
    training: BagTable,
    held_out: BagTable,
    class_names: Sequence[str],
    temperature: float,
    device: torch.device,
    *,
    given_weights: bool = False,
) -> References:
    """Look at maps of whole slides and at features of patches, as pictures and flags need them.

    Maps are those of the validation slides, as explaining gives them: the gradient of the slide's
    score times its number of patches, on patches spread evenly over each of up to 64 slides. Of an
    encoder that began with given weights they are class activation of several layers, in the same
    unit: what finds tumour there was decided by ``benchmarks/slide_labels.py``. A patch counts by
    the label of its slide: of "other classes" are patches of slides with another label, also
    where they show nothing of it.

    Parameters
    ----------
    model : BagModel
        Of any mode, which it keeps.
    training, held_out : BagTable
        References of maps are of held-out slides, of training slides where there is none.
    temperature : float
        Of the calibrated probability.
    given_weights : bool
        Whether the encoder began with the weights of a file.
    """
    shown, source = (held_out, "held-out patches") if len(held_out) else (
        training, "training patches")  # fmt: skip
    side = shown.patches.stores[0].patch_size_px
    stride = map_stride_px(side)
    bags = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), MOST_SLIDES)).astype(np.int64))
    each = max(1, MOST_MAPS // len(bags))
    maps: list[list[NDArray[np.float32]]] = [[] for _ in class_names]
    chance: list[NDArray[np.float64]] = []
    labels: list[NDArray[np.int64]] = []
    with evaluating(model):
        layers = layers_of_maps(model.encoder, side, device) if given_weights else None
        if layers and layers.method not in MEASURED:
            layers = None
        for bag in bags.tolist():
            features = _features(model, shown, bag, device)
            with torch.no_grad():
                contributions = model.head.contributions(features)
            slopes = slide_slopes(model.head, features, range(len(class_names)), OUTPUT)
            some = shown.spread(bag, each)
            in_bag = torch.from_numpy(some - shown.starts[bag]).to(device)
            probability = patch_probability(contributions, temperature)[in_bag]
            chance.append(probability.cpu().numpy().astype(np.float64))
            labels.append(np.full(len(some), shown.labels[bag]))
            for k, slope in enumerate(slopes):
                maps[k].append(_maps(model, shown, some, slope[in_bag], stride, device, layers))
    saliency, evidence = spreads_of_maps(
        [np.concatenate(parts) for parts in maps],
        np.concatenate(chance),
        np.concatenate(labels),
        class_names,
    )
    return References(
        saliency,
        evidence,
        ReferenceSettings(
            method=method_by(layers),
            output=OUTPUT,
            stride_px=stride,
            n_patches=sum(map(len, labels)),
            source=source,
        ),
        *_seen(model, training, held_out, device),
    )


def _seen(
    model: BagModel, training: BagTable, held_out: BagTable, device: torch.device
) -> tuple[FeatureReference | None, TableFeatures, TableFeatures]:
    """What patches look like to the model, and the patches with their features.

    The patches' labels are those of their slides.
    """
    looked_at = []
    for table in (training, held_out):
        some = spread(table.patches, MOST_FEATURES)
        some = replace(some, labels=table.labels[table.bag_of_store[some.store_index]])
        looked_at.append((some, features_of(model, some, device)))
    first, second = looked_at
    return FeatureReference.fit(first[1], second[1]), first, second


def _images(table: BagTable, index: NDArray[np.int64], device: torch.device) -> Tensor:
    return to_float(torch.from_numpy(table.patches.read(index)).to(device))


@torch.no_grad()
def _features(model: BagModel, table: BagTable, bag: int, device: torch.device) -> Tensor:
    members = table.members(bag)
    return torch.cat(
        [
            model.encoder(_images(table, members[i : i + 4 * BATCH], device)).float()
            for i in range(0, len(members), 4 * BATCH)
        ]
    )


def _maps(
    model: BagModel,
    table: BagTable,
    index: NDArray[np.int64],
    slope: Tensor,
    stride: int,
    device: torch.device,
    layers: MapLayers | None,
) -> NDArray[np.float32]:
    """Size of the gradient by the pixels, or class activation of the layers, (n, h, h)."""
    sloped = SlopedEncoder(model.encoder)

    def score(logits: Tensor) -> Tensor:
        return logits[:, 0]

    parts = []
    for start in range(0, len(index), BATCH):
        mine = slice(start, start + BATCH)
        images = _images(table, index[mine], device)
        sloped.slope = slope[mine]
        if layers:
            found, _ = layers.maps(sloped, images, score)
        else:
            found = input_gradient(sloped, images, score)[0].abs().sum(dim=1)
        parts.append(F.avg_pool2d(found[:, None], stride)[:, 0])
    return torch.cat(parts).cpu().numpy()
