"""What replaces pixels that are taken away.

No replacement is neutral: black is a fold or ink on a slide, white is glass, a flat colour is
out of distribution, interpolation leaks what it hides. A claim should hold under all of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.noise import image_noise

OccluderName = Literal["mean", "blur", "noisy-linear", "swap"]
OCCLUDERS: tuple[str, ...] = get_args(OccluderName)

Occluder = Callable[[Tensor], Tensor]
"""Takes hidden pixels (N, H, W) bool, gives the images (N, C, H, W) with those replaced."""

IMPUTE_ITERATIONS = 40
IMPUTE_NOISE = 0.01


def gaussian_blur(images: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of (N, C, H, W) with edges repeated."""
    radius = max(1, min(round(3 * sigma_px), min(images.shape[-2:]) - 1))
    axis = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def noisy_linear_imputation(images: Tensor, hidden: Tensor, noise: Tensor) -> Tensor:
    """Hidden pixels as weighted means of their neighbours, plus noise (Rong et al. 2022).

    Direct neighbours weigh 1/6, diagonal ones 1/12. The linear system is relaxed for a fixed
    number of iterations that begin with the mean of the visible pixels (mid-grey if none is).

    Parameters
    ----------
    images : Tensor, (B, C, H, W)
        In [0, 1].
    hidden : Tensor, (B, H, W) bool
        Pixels to replace, on the device of the images.
    noise : Tensor, (B, C, H, W)
        Standard normal numbers; scaled by ``IMPUTE_NOISE``.

    Returns
    -------
    Tensor, (B, C, H, W)
        In [0, 1]; visible pixels are those of ``images``.
    """
    gone = hidden[:, None]
    seen = (~gone).to(images.dtype)
    count = seen.sum(dim=(2, 3), keepdim=True)
    mean = (images * seen).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1)
    filled = torch.where(gone, torch.where(count > 0, mean, torch.full_like(mean, 0.5)), images)
    kernel = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]], device=images.device) / 12
    channels = images.shape[1]
    weights = kernel.to(images.dtype).expand(channels, 1, 3, 3)
    for _ in range(IMPUTE_ITERATIONS):
        padded = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        filled = torch.where(gone, F.conv2d(padded, weights, groups=channels), images)
    return torch.where(gone, (filled + IMPUTE_NOISE * noise).clamp(0, 1), images)


def make_occluder(
    name: OccluderName,
    images: Tensor,
    *,
    seed: int = 0,
    index: Tensor | Sequence[int] | None = None,
    mean_colour: Tensor | None = None,
    donors: Tensor | None = None,
) -> Occluder:
    """An occluder bound to a batch of images.

    Parameters
    ----------
    name : {"mean", "blur", "noisy-linear", "swap"}
        Mean colour; a blur of an eighth of the side; noisy linear imputation; the same place
        of another image, so that tissue is replaced by tissue.
    images : Tensor, (N, C, H, W), 0..1
    seed : int
        Of noise and of who donates to whom.
    index : sequence of int or Tensor, (N,), optional
        Number of each image, which its noise and donor are drawn by; else its index here.
    mean_colour : Tensor, (C,), optional
        Of the data set; else of these images.
    donors : Tensor, (M, C, H, W), optional
        Images that ``swap`` takes from; else the batch itself, each from the next.

    Returns
    -------
    callable
        (N, H, W) bool of hidden pixels to (N, C, H, W) images.

    Raises
    ------
    UsageError
        If the name is unknown.
    ValueError
        If ``index`` has not as many numbers as there are images.

    Examples
    --------
    >>> import torch
    >>> images = torch.rand(2, 3, 4, 4)
    >>> nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    >>> [torch.equal(make_occluder(name, images)(nothing), images) for name in OCCLUDERS]
    [True, True, True, True]
    """
    drawn = image_noise(seed, index, len(images))
    if name == "noisy-linear":
        noise = drawn.normal(images)
        return lambda hidden: noisy_linear_imputation(images, hidden, noise)
    if name == "mean":
        colour = images.mean(dim=(0, 2, 3)) if mean_colour is None else mean_colour.to(images)
        replacement = colour[None, :, None, None].expand_as(images)
    elif name == "blur":
        replacement = gaussian_blur(images, max(min(images.shape[-2:]) / 8, 1.0))
    elif name == "swap":
        pool = images.roll(1, dims=0) if donors is None else donors.to(images)
        pick = torch.arange(len(images)) if donors is None else drawn.choices(len(pool))
        replacement = pool[pick.to(images.device)]
    else:
        raise UsageError("occluder", f"'{name}' is not known", f"use one of {', '.join(OCCLUDERS)}")
    return lambda hidden: torch.where(hidden[:, None], replacement, images)
