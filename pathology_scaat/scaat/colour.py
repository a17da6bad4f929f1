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


def filled(images: Tensor, mask: Tensor, noise: Tensor | None) -> Tensor:
    """Images (B, C, H, W) whose pixels under the mask are replaced, channel by channel.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W)
    mask : Tensor of shape (B, 1, H, W)
        Bool.
    noise : Tensor of shape (B, C, H, W) or None
        From -1 to 1: where between the image's least and largest value the new one lies. None
        takes the image's mean.
    """
    if noise is None:
        return torch.where(mask, images.mean(dim=(2, 3), keepdim=True), images)
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    return torch.where(mask, low + (noise + 1) / 2 * (high - low), images)
