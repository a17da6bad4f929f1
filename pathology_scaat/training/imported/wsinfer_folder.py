"""A WSInfer model folder: ours as it is exported, or of the zoo. Its script is read as data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from pathology_scaat.errors import TrainingError
from pathology_scaat.training.imported.facts import Colour, ModelFile, colour, read_json
from pathology_scaat.training.imported.torchscript_tensors import read_torchscript_tensors
from pathology_scaat.training.wsinfer import SCRIPT_NAME

ZERO: Colour = (0.0, 0.0, 0.0)
ONE: Colour = (1.0, 1.0, 1.0)
_UNDERSTOOD = {"Resize", "ToTensor", "Normalize"}


def _normalisation(transform: Any, subject: str) -> tuple[Colour, Colour]:
    """Mean and standard deviation that are applied to [0, 1] images outside the network."""
    mean, std = ZERO, ONE
    for step in transform if isinstance(transform, list) else []:
        name = step.get("name") if isinstance(step, dict) else None
        if name not in _UNDERSTOOD:
            raise TrainingError(
                subject,
                f"asks for the transform '{str(name)[:40]}', which is not known here",
                "import its weights alone, with --backbone, --mean and --std",
            )
        if name == "Normalize":
            given = step.get("arguments") or {}
            found = colour(given.get("mean")), colour(given.get("std"))
            if found[0] is None or found[1] is None:
                raise TrainingError(subject, "has a Normalize without mean and std", "correct it")
            mean, std = found[0], found[1]
    return mean, std


def read_wsinfer_folder(folder: Path) -> ModelFile:
    """Weights and meaning of a WSInfer model.

    Parameters
    ----------
    folder : Path
        With ``config.json`` (specification 1.0) and ``torchscript_model.pt``.

    Raises
    ------
    TrainingError
        If a file is missing, or says what is not understood.
    """
    subject = f"{folder.name}/config.json"
    value = read_json(folder / "config.json")
    names, size, mpp = (
        value.get("class_names"), value.get("patch_size_pixels"), value.get("spacing_um_px"),
    )  # fmt: skip
    if (
        not isinstance(names, list) or not names or not isinstance(size, int) or size < 1
        or not isinstance(mpp, int | float) or not math.isfinite(mpp) or mpp <= 0
    ):  # fmt: skip
        raise TrainingError(
            subject,
            "is no WSInfer configuration (class_names, patch_size_pixels and spacing_um_px)",
            "give the folder of one model",
        )
    mean, std = _normalisation(value.get("transform"), subject)
    script = folder / SCRIPT_NAME
    tensors = read_torchscript_tensors(script)
    notes: tuple[str, ...] = ()
    tensors, own_mean, own_std, warm = _ours(tensors)
    if own_mean is not None and own_std is not None:
        mean, std = own_mean, own_std
    if warm:
        notes = (
            "The temperature in its script is left out: probabilities are those of the plain "
            "logits.",
        )
    architecture = value.get("architecture")
    return ModelFile(
        "wsinfer",
        script,
        tensors,
        str(architecture) if architecture else None,
        tuple(map(str, names)),
        float(mpp),
        size,
        mean,
        std,
        notes,
    )


def _ours(
    tensors: dict[str, Tensor],
) -> tuple[dict[str, Tensor], Colour | None, Colour | None, bool]:
    """The backbone of a model that we exported, its normalisation, and whether it was calibrated.

    Our script holds the normalisation as tensors beside the backbone, one level deeper where its
    logits are divided by a temperature.
    """
    for start in ("", "model."):
        mean, std = tensors.get(f"{start}mean"), tensors.get(f"{start}std")
        if mean is None or std is None or mean.numel() != 3 or std.numel() != 3:
            continue
        kept = {
            key: value
            for key, value in tensors.items()
            if key not in (f"{start}mean", f"{start}std")
        }
        return kept, colour(mean.flatten().tolist()), colour(std.flatten().tolist()), bool(start)
    return tensors, None, None, False
