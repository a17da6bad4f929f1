"""What a file or folder with a model says of it, and what somebody else must say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pathology_scaat.errors import TrainingError
from pathology_scaat.training.backbones import read_weight_file
from pathology_scaat.training.imported.record import SourceKind
from pathology_scaat.training.imported.torchscript_tensors import (
    is_torchscript,
    read_torchscript_tensors,
)

MAX_JSON_BYTES = 1 << 20
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ModelFile:
    """A model's weights and what stands beside them; None where nothing is said.

    Attributes
    ----------
    kind : str
    weights : Path
        File that the tensors are of.
    tensors : dict of str to Tensor
    backbone : str or None
        Network by a name of ours.
    class_names : tuple of str or None
        In the order of the outputs.
    mpp : float or None
        µm per pixel of the patches.
    patch_size_px : int or None
    mean, std : 3 floats or None
        On [0, 1].
    notes : tuple of str
        Sentences for whoever imports it.
    """

    kind: SourceKind
    weights: Path
    tensors: dict[str, Tensor]
    backbone: str | None = None
    class_names: tuple[str, ...] | None = None
    mpp: float | None = None
    patch_size_px: int | None = None
    mean: Colour | None = None
    std: Colour | None = None
    notes: tuple[str, ...] = field(default=())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of reasonable size.

    Raises
    ------
    TrainingError
        Naming folder and file.
    """
    subject = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise TrainingError(subject, "is of absurd size", "give the model's own folder")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(subject, "is not there", "give the model's own folder") from None
    except (OSError, ValueError, RecursionError):
        raise TrainingError(subject, "is no JSON that can be read", "get it anew") from None
    if not isinstance(value, dict):
        raise TrainingError(subject, "is no JSON object", "get it anew")
    return value


def colour(value: object) -> Colour | None:
    """Three numbers of a file; None where it holds something else."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        return None
    return (float(value[0]), float(value[1]), float(value[2]))


def read_weights(path: Path) -> ModelFile:
    """The tensors of a weight file or, as data alone, of a TorchScript file.

    Raises
    ------
    TrainingError
        If it holds anything but tensors.
    """
    if is_torchscript(path):
        return ModelFile("torchscript", path, read_torchscript_tensors(path))
    return ModelFile("weights", path, read_weight_file(path))
