"""Metrics of explanation quality: pure functions in ``functional``, torchmetrics classes beside.

The classes are loaded on first use: importing this package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "GiniIndex",
    "MapEntropy",
    "MapSsim",
    "PixelAuroc",
    "PixelAveragePrecision",
    "PointingGame",
    "RankStability",
    "RelevanceRankAccuracy",
    "SymmetricRelevanceGain",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pathology_scaat.metrics.streaming"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
