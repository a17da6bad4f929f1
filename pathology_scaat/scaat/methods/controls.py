"""Controls: SCAAT with one thing made arbitrary, to see whether that thing matters."""

from __future__ import annotations

from typing import Any

from torch import nn

from pathology_scaat.scaat.scaat import SCAAT


def random_mask(model: nn.Module, **options: Any) -> SCAAT:
    """A control for SCAAT: the attack's mask is random, with SCAAT's area and budget.

    Parameters
    ----------
    model : nn.Module
        Network from images (B, C, H, W) to logits (B, K).
    **options
        Fields of :class:`~pathology_scaat.scaat.options.ScaatOptions` besides the mask's.
    """
    return SCAAT(model, **{"where": "random", **options})


def random_noise(model: nn.Module, **options: Any) -> SCAAT:
    """SCAAT's mask and budget, but random signs."""
    return SCAAT(model, **{"direction": "random-sign", **options})


def inverted_mask(model: nn.Module, **options: Any) -> SCAAT:
    """SCAAT that attacks the most salient pixels instead."""
    return SCAAT(model, **{"where": "high", **options})
