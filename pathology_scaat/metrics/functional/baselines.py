"""Maps that know nothing of the model: what a saliency map has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows of the inverse of Ruifrok and Johnston's (2001) stain matrix for haematoxylin, eosin and
# DAB: multiplied with an optical density they give the amount of haematoxylin.
_STAINS = torch.tensor(
    [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=torch.float64
)


def centre_prior(n: int, height: int, width: int) -> Tensor:
    """(n, height, width): 1 in the middle, falling with the distance, 0 in the corner.

    Examples
    --------
    >>> centre_prior(1, 3, 3)[0, 1]
    tensor([0.2929, 1.0000, 0.2929])
    """
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    prior = 1 - torch.sqrt(x**2 + y**2) / 2**0.5
    return prior.clamp(min=0).expand(n, height, width).clone()


def haematoxylin_density(images: Tensor) -> Tensor:
    """Amount of haematoxylin at each pixel of (N, 3, H, W) images in 0..1: (N, H, W), >= 0.

    Colour deconvolution after Ruifrok and Johnston 2001. Dark blue nuclei score high without
    any model, and tumour is rich in them.

    Examples
    --------
    >>> import torch
    >>> blue, white = torch.tensor([0.3, 0.2, 0.6]), torch.ones(3)
    >>> density = haematoxylin_density(torch.stack([blue, white], 1)[None, :, None])
    >>> bool(density[0, 0, 0] > 0.3), float(density[0, 0, 1])
    (True, 0.0)
    """
    density = -torch.log(images.double().clamp(min=1e-6))
    unmix = torch.linalg.inv(_STAINS).to(images.device)
    amount = torch.einsum("nchw,cs->nshw", density, unmix)[:, 0]
    return amount.clamp(min=0).float()


def random_map(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(n, height, width) of independent values, uniform in [0, 1), from a CPU generator."""
    return torch.rand((n, height, width), generator=generator)
