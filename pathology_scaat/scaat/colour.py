"""Perturbations in optical density, where stain adds up."""

from __future__ import annotations

from torch import Tensor

DENSITY_OFFSET = 1 / 255
"""Added before the logarithm, so that black has a finite density."""


def add_density(images: Tensor, density: Tensor) -> Tensor:
    """Add optical density (natural logarithm) to images in [0, 1]; the result may leave [0, 1].

    ``(x + o) exp(-d) - o`` with ``o = 1/255``: more density is darker. Both are (B, C, H, W).
    """
    return (images + DENSITY_OFFSET) * (-density).exp() - DENSITY_OFFSET
