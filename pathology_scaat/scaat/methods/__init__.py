"""Training methods by name: SCAAT, related methods (baselines) and controls, in one frame."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.method import Method, StepLosses, Visit
from pathology_scaat.scaat.names import METHODS

__all__ = ["METHODS", "Method", "StepLosses", "Visit", "make_method"]

_COMMON = ("objective", "seed", "autocast_dtype")


def make_method(name: str, model: nn.Module, **options: Any) -> Method:
    """Make a training method by name.

    Parameters
    ----------
    name : str
        One of :data:`METHODS`.
    model : nn.Module
        Maps (B, C, H, W) float images in [0, 1] to (B, K) logits; normalisation is inside.
    **options
        ``objective``, ``seed``, ``autocast_dtype``, and the method's own options.

    Raises
    ------
    UsageError
        If the name or an option is unknown, or a value is out of range.
    """
    maker = METHODS.load(name, "--method")
    parameters = inspect.signature(maker).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        unknown = sorted(set(options) - set(parameters))
        if unknown:
            own = [key for key in parameters if key not in (*_COMMON, "model", "self")]
            raise UsageError(
                f"options of '{name}'",
                f"unknown: {', '.join(unknown)}",
                f"known: {', '.join(own) or 'none'}",
            )
    made: Method = maker(model, **options)
    return made
