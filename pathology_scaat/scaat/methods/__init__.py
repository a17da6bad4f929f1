"""Training methods by name: SCAAT, its neighbours and the controls, in one frame."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.method import Method, StepLosses, Visit
from pathology_scaat.scaat.methods.adversarial import FreeTraining, Pgd, Trades, fgsm
from pathology_scaat.scaat.methods.amortised import AmortisedScaat
from pathology_scaat.scaat.methods.guided import background, sgt
from pathology_scaat.scaat.methods.penalty import GradientPenalty
from pathology_scaat.scaat.methods.plain import Plain
from pathology_scaat.scaat.names import METHOD_NAMES
from pathology_scaat.scaat.scaat import SCAAT

__all__ = ["METHOD_NAMES", "Method", "StepLosses", "Visit", "make_method"]


def random_mask(model: nn.Module, **options: Any) -> SCAAT:
    """Control: SCAAT with a random mask of the same area and budget."""
    return SCAAT(model, **{"where": "random", **options})


def random_noise(model: nn.Module, **options: Any) -> SCAAT:
    """Control: SCAAT's mask and budget, but random signs."""
    return SCAAT(model, **{"direction": "random-sign", **options})


def inverted_mask(model: nn.Module, **options: Any) -> SCAAT:
    """Control: the most salient pixels are attacked instead."""
    return SCAAT(model, **{"where": "high", **options})


_MAKERS: dict[str, Callable[..., Method]] = {
    "plain": Plain,
    "scaat": SCAAT,
    "scaat-amortised": AmortisedScaat,
    "sgt": sgt,
    "fgsm": fgsm,
    "pgd": Pgd,
    "trades": Trades,
    "free": FreeTraining,
    "gradient-penalty": GradientPenalty,
    "random-mask": random_mask,
    "random-noise": random_noise,
    "inverted-mask": inverted_mask,
    "background": background,
}

_COMMON = ("objective", "seed", "autocast_dtype")


def make_method(name: str, model: nn.Module, **options: Any) -> Method:
    """Make a training method by name.

    Parameters
    ----------
    name : str
        One of :data:`METHOD_NAMES`.
    model : nn.Module
        Maps (B, C, H, W) float images in [0, 1] to (B, K) logits; normalisation is inside.
    **options
        ``objective``, ``seed``, ``autocast_dtype``, and the method's own options.

    Raises
    ------
    UsageError
        If the name or an option is unknown, or a value is out of range.
    """
    if name not in _MAKERS:
        raise UsageError(
            "--method", f"'{name}' is unknown", f"choose from {', '.join(METHOD_NAMES)}"
        )
    maker = _MAKERS[name]
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
    return maker(model, **options)
