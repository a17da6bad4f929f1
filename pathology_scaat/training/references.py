"""What a finished model's maps and features look like on held-out patches.

Pictures of all slides are measured by these values, so that a colour means the same on every
slide; and by them a patch is reported to be unlike the training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.scaat.evidence import patch_evidence
from pathology_scaat.scaat.gradients import input_gradient
from pathology_scaat.scaat.map_layers import MapLayers, map_layers
from pathology_scaat.scaat.target import Output, evaluating, target_score
from pathology_scaat.training.bundle_config import MapReference, ReferenceSettings
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.feature_reference import FeatureReference, all_alike, penultimate
from pathology_scaat.training.looks import look_statistics

STRIDE_PX = 4
"""As :class:`~pathology_scaat.saliency.config.ExplainConfig` has it by default."""
MOST_MAPS = 512
MOST_FEATURES = 2048
BATCH = 32


@dataclass(frozen=True)
class References:
    """What goes into the bundle: by class where a map is of a class.

    ``training`` and ``held_out`` are the patches whose features (N, F) were looked at;
    ``held_out_logits`` (M, K) are calibrated.
    """

    saliency: dict[str, MapReference]
    evidence: dict[str, MapReference]
    settings: ReferenceSettings
    features: FeatureReference | None
    training: tuple[PatchTable, NDArray[np.float32]] | None = None
    held_out: tuple[PatchTable, NDArray[np.float32]] | None = None
    held_out_logits: NDArray[np.float32] | None = None

    def destroyed(self, learning_rate: float) -> str:
        """That training destroyed the network, whose features are the same for every patch, and
        what helps; empty where they differ.
        """
        if self.training is None or not all_alike(self.training[1]):
            return ""
        return (
            "Training has destroyed the network: its features are the same for every patch. Set "
            f"train: learning_rate in the pipeline file lower (now {learning_rate:g}); given "
            "weights bear less than a network that begins at random"
        )


def spread(table: PatchTable, most: int) -> PatchTable:
    """At most so many patches, evenly spread over the table."""
    index = np.unique(np.linspace(0, len(table) - 1, min(len(table), most)).astype(np.int64))
    return table.select(index) if len(table) else table


def _images(table: PatchTable, start: int, device: torch.device) -> torch.Tensor:
    index = np.arange(start, min(start + BATCH, len(table)))
    pixels = torch.from_numpy(table.read(index)).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 255


def features_of(model: nn.Module, table: PatchTable, device: torch.device) -> NDArray[np.float32]:
    """What the head gets of each patch, (N, F) float32; (N, 0) where the model has no head."""
    return _outputs_of(model, table, device).features


@dataclass(frozen=True)
class _TableOutputs:
    """Features (N, F), looks (N, L) and logits (N, K) of a table's patches."""

    features: NDArray[np.float32]
    looks: NDArray[np.float32]
    logits: NDArray[np.float32]


def _outputs_of(model: nn.Module, table: PatchTable, device: torch.device) -> _TableOutputs:
    logits: list[torch.Tensor] = []
    looks: list[torch.Tensor] = []
    with evaluating(model), torch.no_grad(), penultimate(model) as kept:
        for start in range(0, len(table), BATCH):
            images = _images(table, start, device)
            logits.append(model(images).float().cpu())
            looks.append(look_statistics(images).cpu())
    none = np.zeros((len(table), 0), np.float32)
    return _TableOutputs(
        torch.cat([part.cpu() for part in kept]).numpy() if kept else none,
        torch.cat(looks).numpy() if looks else none,
        torch.cat(logits).numpy() if logits else np.zeros((0, 0), np.float32),
    )


def _spread_of(values: NDArray[np.floating[Any]], other: NDArray[np.bool_]) -> MapReference:
    p50, p90, p99, p995 = (float(f"{v:.6g}") for v in np.quantile(values, (0.5, 0.9, 0.99, 0.995)))
    others = float(f"{np.quantile(values[other], 0.99):.6g}") if other.any() else None
    return MapReference(p50=p50, p90=p90, p99=p99, p995=p995, others_p99=others)


def spreads_of_maps(
    maps: Sequence[NDArray[np.floating[Any]]],
    chance: NDArray[np.float64],
    labels: NDArray[Any],
    class_names: Sequence[str],
) -> tuple[dict[str, MapReference], dict[str, MapReference]]:
    """Saliency times probability, and evidence: what they span, by class.

    Parameters
    ----------
    maps : sequence of (n, h, h), one per class
    chance : (n, K)
        Calibrated probability of each patch.
    labels : (n,) or (n, K)
        Of the patches, or of the slides they are of; below 0 is not known, and counts for no
        class.
    """
    saliency, evidence = {}, {}
    for k, name in enumerate(class_names):
        values = np.asarray(maps[k], dtype=np.float64)
        several = labels.ndim == 2
        other = labels[:, k] <= 0.5 if several else (labels != k) & (labels >= 0)
        saliency[name] = _spread_of(values * chance[:, k, None, None], other)
        evidence[name] = _spread_of(patch_evidence(values, chance[:, k]), other)
    return saliency, evidence


def feature_reference(
    model: nn.Module, training: PatchTable, held_out: PatchTable, device: torch.device
) -> FeatureReference | None:
    """What training patches look like to the model, and how unlike held-out ones are."""
    some, others = spread(training, MOST_FEATURES), spread(held_out, MOST_FEATURES)
    return _reference(some, _outputs_of(model, some, device), _outputs_of(model, others, device))


def _reference(
    training: PatchTable, seen: _TableOutputs, unseen: _TableOutputs
) -> FeatureReference | None:
    """Of features, and of looks beside them."""
    found = FeatureReference.fit(seen.features, unseen.features)
    if found is None:
        return None
    looks = FeatureReference.of_looks(seen.looks, unseen.looks, training.store_index)
    return replace(found, looks=looks)


def map_stride_px(patch_size_px: int) -> int:
    """Pixels of a patch a value of the reference maps."""
    return STRIDE_PX if patch_size_px % STRIDE_PX == 0 else 1


def layers_of_maps(model: nn.Module, side_px: int, device: torch.device) -> MapLayers | None:
    """:func:`~pathology_scaat.scaat.map_layers.map_layers` of a network of square patches."""
    return map_layers(model, (3, side_px, side_px), device)


def method_by(layers: MapLayers | None) -> str:
    """The attribution method of maps that such layers make, or that the gradient makes."""
    return layers.method if layers else "gradient"


def _maps_of_classes(
    model: nn.Module, images: Tensor, n_classes: int, output: Output, layers: MapLayers | None
) -> tuple[list[Tensor], Tensor]:
    """A map (n, P, P) of each class, as explaining makes it, and the logits (n, K)."""
    maps: list[Tensor] = []
    # a lone logit is that of class 1 against class 0: of the only class it is asked as class 1
    alone = output == "logit" and n_classes == 1
    for k in range(n_classes):
        classes = torch.full((len(images),), 1 if alone else k, device=images.device)

        def score(logits: Tensor, classes: Tensor = classes) -> Tensor:
            return target_score(logits, classes, output)

        if layers:
            found, logits = layers.maps(model, images, score)
        elif k and n_classes == 2 and output == "margin":
            found = maps[0]  # the two margins differ in sign alone
        else:
            slope, logits = input_gradient(model, images, score)
            found = slope.float().abs().sum(dim=1)
        maps.append(found)
    return maps, logits.float()


def measure_maps(
    model: nn.Module,
    shown: PatchTable,
    class_names: Sequence[str],
    temperature: float,
    device: torch.device,
    source: Literal["held-out patches", "training patches", "reference patches"],
    *,
    multi_label: bool,
) -> References:
    """Look at a model's maps on patches; labels below 0 are not known, and count for no class.

    Parameters
    ----------
    shown : PatchTable
        At most :data:`MOST_MAPS` of its patches are looked at.
    source : str
        What these patches are, for whoever reads the scale.
    """
    shown = spread(shown, MOST_MAPS)
    side = shown.stores[0].patch_size_px
    stride = map_stride_px(side)
    output: Output = "logit" if multi_label else "margin"
    maps: list[list[NDArray[np.float32]]] = [[] for _ in class_names]
    probability: list[NDArray[np.float32]] = []
    with evaluating(model):
        layers = layers_of_maps(model, side, device)
        for start in range(0, len(shown), BATCH):
            images = _images(shown, start, device)
            found, logits = _maps_of_classes(model, images, len(class_names), output, layers)
            for k, values in enumerate(found):
                maps[k].append(F.avg_pool2d(values[:, None], stride)[:, 0].cpu().numpy())
            if logits.shape[1] == 1 and len(class_names) == 2:
                logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
            scaled = logits / temperature
            chances = scaled.sigmoid() if multi_label else scaled.softmax(dim=1)
            probability.append(chances.cpu().numpy())
    chance = np.concatenate(probability).astype(np.float64)
    saliency, evidence = spreads_of_maps(
        [np.concatenate(parts) for parts in maps], chance, shown.labels, class_names
    )
    settings = ReferenceSettings(
        method=method_by(layers),
        output=output,
        stride_px=stride,
        n_patches=len(shown),
        source=source,
    )
    return References(saliency, evidence, settings, None)


def measure_references(
    model: nn.Module,
    training: PatchTable,
    held_out: PatchTable,
    class_names: Sequence[str],
    temperature: float,
    device: torch.device,
    *,
    multi_label: bool,
) -> References:
    """Look at a model's maps and features on its patches.

    Parameters
    ----------
    model : nn.Module
        (B, 3, P, P) in [0, 1] to logits; of any mode, which it keeps.
    training, held_out : PatchTable
        References of maps are of held-out patches, of training patches where there is none.
    temperature : float
        Of the calibrated probability.
    """
    if len(held_out):
        maps = measure_maps(
            model, held_out, class_names, temperature, device, "held-out patches",
            multi_label=multi_label,
        )  # fmt: skip
    else:
        maps = measure_maps(
            model, training, class_names, temperature, device, "training patches",
            multi_label=multi_label,
        )  # fmt: skip
    some, others = spread(training, MOST_FEATURES), spread(held_out, MOST_FEATURES)
    seen, unseen = _outputs_of(model, some, device), _outputs_of(model, others, device)
    return replace(
        maps,
        features=_reference(some, seen, unseen),
        training=(some, seen.features),
        held_out=(others, unseen.features),
        held_out_logits=unseen.logits / temperature,
    )
