"""Perturbations in optical density, where stain adds up."""

from __future__ import annotations

import torch
from torch import Tensor

DENSITY_OFFSET = 1 / 255
"""Added before the logarithm, so that black has a finite density."""


def add_density(images: Tensor, density: Tensor) -> Tensor:
    """Add optical density (natural logarithm) to images in [0, 1]; the result may leave [0, 1].

    ``(x + o) exp(-d) - o`` with ``o = 1/255``: more density is darker. Both are (B, C, H, W).
    """
    return (images + DENSITY_OFFSET) * (-density).exp() - DENSITY_OFFSET


def apply_change(images: Tensor, change: Tensor, colour_space: str) -> Tensor:
    """Images with a change of theirs, in [0, 1]; where the change is 0 they are as they were.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W)
        In [0, 1].
    change : Tensor of shape (B, C, H, W)
        In [0, 1] units, or in optical density where ``colour_space`` is not ``"rgb"``.
    colour_space : str
        As :class:`~pathology_scaat.scaat.options.ScaatOptions` names it.

    Returns
    -------
    Tensor of shape (B, C, H, W)
    """
    if colour_space == "rgb":
        return (images + change).clamp_(0, 1)
    return torch.where(change == 0, images, add_density(images, change).clamp_(0, 1))
