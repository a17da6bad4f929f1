"""Bags of features: which files make one bag, and their numbers in memory up to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.errors import TrainingError
from pathology_scaat.training.heads.config import Target
from pathology_scaat.training.heads.feature_files import FeatureFile


@dataclass(frozen=True)
class FeatureBag:
    """One slide, or all slides of a patient.

    Attributes
    ----------
    bag_id : str
        The slide's id, or the patient's.
    split : str
        ``train``, ``val`` or ``test``; empty where there is none.
    files : tuple of FeatureFile
        One a slide.
    label : str
        Class or grade; empty where it is not known, and of survival.
    time, event : float, bool or None
        Of survival.
    """

    bag_id: str
    patient_id: str
    split: str
    files: tuple[FeatureFile, ...]
    label: str = ""
    time: float | None = None
    event: bool | None = None

    @property
    def n_patches(self) -> int:
        return sum(file.n_patches for file in self.files)


def is_known(bag: FeatureBag, target: Target) -> bool:
    """Whether a bag has what the head learns from."""
    if target.kind == "survival":
        return bag.time is not None and bag.event is not None
    return bag.label in target.names


@dataclass
class FeatureReader:
    """Reads bags; files stay in memory as long as there is room.

    Attributes
    ----------
    room_bytes : int
        For features in memory; beyond it they are read from the file at each step.
    kept : dict of path to (n, d) float32
        Features of the files that are in memory.
    """

    room_bytes: int
    kept: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def read(self, bag: FeatureBag, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Features (n, d) float32 of some patches of a bag, or of all.

        ``rows`` (n,) rise, and number the patches through all slides of the bag.

        Raises
        ------
        StoreError
            If a file cannot be read any more, or holds what is no finite number.
        """
        parts = []
        start = 0
        for file in bag.files:
            mine = None
            if rows is not None:
                mine = rows[(rows >= start) & (rows < start + file.n_patches)] - start
            start += file.n_patches
            parts.append(self._rows(file, mine))
        return torch.from_numpy(np.concatenate(parts))

    def _rows(self, file: FeatureFile, rows: NDArray[np.int64] | None) -> NDArray[np.float32]:
        key = str(file.path)
        if key not in self.kept:
            size = 4 * file.n_patches * file.n_features
            if size > self.room_bytes:
                return file.read(rows)
            self.room_bytes -= size
            self.kept[key] = file.read()
        found = self.kept[key]
        return found if rows is None else found[rows]


def check_alike(bags: Sequence[FeatureBag]) -> tuple[int, str]:
    """Number of features of all files, and the encoder that they name.

    Raises
    ------
    TrainingError
        If files have different numbers of features, or name different encoders.
    """
    files = [file for bag in bags for file in bag.files]
    first = files[0]
    named = next((file for file in files if file.encoder), first)
    for file in files:
        if file.n_features != first.n_features:
            raise TrainingError(
                file.path.name,
                f"has {file.n_features} features a patch, and {first.path.name} {first.n_features}",
                "give features of one encoder",
            )
        if file.encoder and file.encoder != named.encoder:
            raise TrainingError(
                file.path.name,
                f"names the encoder '{file.encoder}', and {named.path.name} '{named.encoder}'",
                "give features of one encoder",
            )
    return first.n_features, named.encoder


def labels_of(bags: Sequence[FeatureBag], target: Target) -> NDArray[np.int64]:
    """Class indices (n,) int64 of bags whose labels are among the target's."""
    return np.array([target.names.index(b.label) for b in bags], np.int64)


def outcomes_of(bags: Sequence[FeatureBag]) -> tuple[Tensor, Tensor]:
    """Times (n,) float64 and events (n,) float32, 1 or 0, of bags that have them.

    Times are in the manifest's unit.
    """
    time = torch.tensor([float(b.time or 0.0) for b in bags], dtype=torch.float64)
    return time, torch.tensor([float(bool(b.event)) for b in bags])
