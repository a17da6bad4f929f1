"""Training: patch stores into a model bundle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pathology_scaat.training.config import AugmentConfig, TrainConfig
from pathology_scaat.training.results import TrainingSlide, TrainProgress, TrainResult

if TYPE_CHECKING:
    from pathology_scaat.training.bundle import ModelBundle, load_bundle, save_bundle
    from pathology_scaat.training.bundle_config import BundleConfig
    from pathology_scaat.training.train import train_model

_LAZY = {
    "BundleConfig": "bundle_config",
    "ModelBundle": "bundle",
    "load_bundle": "bundle",
    "save_bundle": "bundle",
    "train_model": "train",
}

__all__ = [
    "AugmentConfig",
    "BundleConfig",
    "ModelBundle",
    "TrainConfig",
    "TrainProgress",
    "TrainResult",
    "TrainingSlide",
    "load_bundle",
    "save_bundle",
    "train_model",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
