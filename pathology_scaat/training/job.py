"""A training as a value, what one of its steps is shown, and what changes while it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pathology_scaat.scaat.method import Visit
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.results import TrainingSlide


def work_folder(out: Path) -> Path:
    """Where the checkpoint and the log lie: beside the bundle."""
    return out.with_name(f"{out.name}.training")


class LoopJob(Protocol):
    """What the loop must know of a training."""

    @property
    def slides(self) -> tuple[TrainingSlide, ...]: ...
    @property
    def out(self) -> Path: ...
    @property
    def config(self) -> TrainConfig: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def seed(self) -> int: ...


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


@dataclass(frozen=True)
class StepBatch:
    """What one step is shown.

    Attributes
    ----------
    images : Tensor of shape (B, 3, H, W)
        Float, in [0, 1]: patches, or bags as tall images of all their patches. Where the encoder is
        frozen, the features (B, m, F) of bags of m patches.
    labels : Tensor of shape (B,) or (B, K)
        As the objective wants them.
    visit : Visit
        Which patches they are.
    n_patches : int
        How many patches they are.
    """

    images: Tensor
    labels: Tensor
    visit: Visit
    n_patches: int
