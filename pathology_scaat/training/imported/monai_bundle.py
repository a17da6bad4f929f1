"""A MONAI bundle: metadata and weights are read; its configuration is never executed.

A bundle's configuration is a program (``_target_`` names what is called, ``$`` begins Python).
Here only plain values are looked at: the name of a known network, the patch size, the outputs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from pathology_scaat.errors import TrainingError
from pathology_scaat.training.imported.facts import Colour, ModelFile, read_json, read_weights

WEIGHTS = ("models/model.pt", "models/model.safetensors", "models/model.ts")
CONFIGURATIONS = ("configs/inference.json", "configs/train.json", "configs/evaluate.json")
_FC_MODEL = "TorchVisionFCModel"
_RESNET_PARTS = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")


def read_monai_bundle(folder: Path) -> ModelFile:
    """Weights and meaning of a MONAI bundle that classifies RGB patches.

    Raises
    ------
    TrainingError
        If it has no weights, or is no classifier of RGB patches.
    """
    metadata = read_json(folder / "configs" / "metadata.json")
    subject = f"{folder.name}/configs/metadata.json"
    size, names, n_outputs = _format(metadata, subject)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise TrainingError(folder.name, "has no models/model.pt", "get the whole bundle")
    network, scale = _configured(folder)
    tensors = read_weights(weights).tensors
    backbone: str | None = None
    notes: tuple[str, ...] = ()
    if network.get("_target_", "").rpartition(".")[2] == _FC_MODEL:
        backbone = str(network.get("model_name", "")) or None
        tensors = _resnet_names(tensors)
    mean, std = _normalisation(scale)
    if names is not None and len(names) == 1 and n_outputs == 1:
        # one sigmoid: the class that it speaks of, and its absence
        names = (f"no {names[0]}", names[0])
        notes = (f"Its one output is '{names[1]}'; the other class is called '{names[0]}'.",)
    return ModelFile(
        "monai", weights, tensors, backbone, names, None, size, mean, std, notes
    )  # fmt: skip


def _format(
    metadata: dict[str, Any], subject: str
) -> tuple[int | None, tuple[str, ...] | None, int | None]:
    """Patch size, names and number of the outputs, as ``network_data_format`` has them."""
    data = metadata.get("network_data_format")
    inputs = data.get("inputs") if isinstance(data, dict) else None
    image = inputs.get("image") if isinstance(inputs, dict) else None
    if not isinstance(image, dict) or image.get("num_channels") != 3:
        raise TrainingError(subject, "describes no network for RGB images", "import another model")
    shape = image.get("spatial_shape")
    size = None
    if isinstance(shape, list) and shape and all(isinstance(s, int) for s in shape):
        if len(shape) != 2 or shape[0] != shape[1]:
            raise TrainingError(subject, f"takes images of {shape}", "only squares are explained")
        size = shape[0]
    outputs = data.get("outputs") if isinstance(data, dict) else None
    pred = outputs.get("pred") if isinstance(outputs, dict) else None
    pred = pred if isinstance(pred, dict) else {}
    if pred.get("format") not in (None, "classification"):
        raise TrainingError(
            subject,
            f"gives {str(pred['format'])[:40]}, no classes",
            "only classifiers are explained",
        )
    named = pred.get("channel_def")
    names = None
    if isinstance(named, dict) and all(str(k).isdigit() for k in named):
        names = tuple(str(named[k]) for k in sorted(named, key=int))
    count = pred.get("num_channels")
    return size, names, count if isinstance(count, int) else None


def _configured(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain values of the network's definition, and of the scaling of intensities."""
    for name in CONFIGURATIONS:
        if (folder / name).is_file():
            value = read_json(folder / name)
            network = value.get("network_def")
            return network if isinstance(network, dict) else {}, _find_scale(value)
    return {}, {}


def _find_scale(value: Any, depth: int = 0) -> dict[str, Any]:
    if depth > 12:
        return {}
    if isinstance(value, dict):
        if str(value.get("_target_", "")).startswith("ScaleIntensityRange"):
            return value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            if found := _find_scale(inner, depth + 1):
                return found
    return {}


def _normalisation(scale: dict[str, Any]) -> tuple[Colour | None, Colour | None]:
    """As mean and deviation on [0, 1]: 0..255 to b_min..b_max is (x - mean) / std."""
    try:
        low, high, first, last = (float(scale[k]) for k in ("a_min", "a_max", "b_min", "b_max"))
    except (KeyError, TypeError, ValueError):
        return None, None
    if (low, high) != (0.0, 255.0) or last <= first:
        return None, None
    std = 1 / (last - first)
    mean = -first * std
    return (mean, mean, mean), (std, std, std)


def _resnet_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``features.4.0.conv1`` as ``layer1.0.conv1``: the children of a ResNet by their names."""

    def name(key: str) -> str:
        match = re.match(r"features\.(\d+)\.(.+)$", key)
        if match is None or int(match[1]) >= len(_RESNET_PARTS):
            return key
        return f"{_RESNET_PARTS[int(match[1])]}.{match[2]}"

    return {name(key): value for key, value in tensors.items()}
