"""What goes into training and what comes out, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pathology_scaat.system.rounding import decimals

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class TrainingSlide:
    """One slide's patches and the part they play.

    Attributes
    ----------
    store : Path
        Patch store.
    slide_id, patient_id : str
        A patient stands in one split only.
    split : str
        ``train``, ``val`` or ``test``.
    label : str, optional
        Class of the whole slide; what a model for bags learns from.
    scan_year : int, optional
        Year of the scan; None where it is not known or was not asked for.
    """

    store: Path
    slide_id: str
    patient_id: str
    split: str
    label: str | None = None
    scan_year: int | None = None


@dataclass(frozen=True)
class TrainProgress:
    """What a training reports after every epoch, and within long ones.

    Attributes
    ----------
    epochs_done : int
        Whole epochs.
    n_epochs : int
        At most so many.
    epoch_fraction : float
        Share of the running epoch that is done, 0 to 1.
    metrics : dict
        Newest measures (``loss``, ``val_auc``, ``images_per_s``, ...); empty before the first.
    """

    epochs_done: int
    n_epochs: int
    epoch_fraction: float = 0.0
    metrics: dict[str, float] | None = None

    @property
    def text(self) -> str:
        """The measures in a few words, for a progress bar."""
        shown = self.metrics or {}
        parts = [
            f"{label} {decimals(shown[key], digits)}"
            for key, label, digits in (
                ("loss", "loss", 3),
                ("val_auc", "val AUC", 3),
                ("images_per_s", "images/s", 0),
            )
            if key in shown
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class TrainResult:
    """What training left.

    Attributes
    ----------
    bundle_path : Path
        The model bundle's folder.
    fingerprint : str
        Fingerprint of data, settings and seed.
    model_fingerprint : str
        Fingerprint of the bundle (weights and what they mean).
    metrics : dict
        ``val_auc``, ``val_accuracy``, ``test_auc``... of the chosen epoch.
    n_epochs, best_epoch : int
        Epochs done, and the chosen one, from 1.
    seconds : float
        Wall clock; 0 where nothing had to be done.
    skipped : bool
        True where the right bundle was there already.
    notes : tuple of str
        What the user should know, in sentences.
    nothing_learnt : str
        Why the model counts as having learnt nothing; empty where it has learnt something.
    """

    bundle_path: Path
    fingerprint: str
    model_fingerprint: str
    metrics: dict[str, Any]
    n_epochs: int
    best_epoch: int
    seconds: float = 0.0
    skipped: bool = False
    notes: tuple[str, ...] = ()
    nothing_learnt: str = ""
