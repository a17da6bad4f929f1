"""A training as a value, and what changes while it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.results import TrainingSlide


def work_folder(out: Path) -> Path:
    """Where the checkpoint and the log lie: beside the bundle."""
    return out.with_name(f"{out.name}.training")


@dataclass(frozen=True)
class Job:
    """A training as a value that other processes can be given."""

    slides: tuple[TrainingSlide, ...]
    out: Path
    config: TrainConfig
    class_names: tuple[str, ...]
    fingerprint: str
    device: str
    seed: int
    parent: Path | None = None
    """Bundle whose weights are trained on; none where training begins with new ones."""


@dataclass
class TrainingState:
    """What changes from epoch to epoch, beside the weights."""

    epoch: int = 0
    best: float = -math.inf
    best_at: int = 0
    chosen_epoch: int = 0
    chosen: dict[str, Tensor] | None = None
    rows: list[dict[str, Any]] | None = None
