"""Trainings that are stopped between two epochs, and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pathology_scaat.training import TrainProgress


class InterruptedTestError(Exception):
    """Stands for a kill between two epochs."""


def stop_after(epoch: int) -> Callable[[TrainProgress], None]:
    def on_progress(progress: TrainProgress) -> None:
        if progress.epochs_done == epoch and progress.epoch_fraction == 0:
            raise InterruptedTestError

    return on_progress


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
