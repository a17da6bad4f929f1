"""What a patch looks like in a few numbers that no training can unlearn: stain and texture.

A network keeps of an image what its task needs: to one that tells two kinds of nuclei apart,
skin may be like any tissue. Colour and the strength of detail at several sizes are kept by
nothing but the image itself, and reveal foreign tissue, stains and scanners.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pathology_scaat.scaat.gradients import sum_of_channels

MAX_SCALES = 5
LEAST_SIDE_PX = 8
"""A size of detail is measured while the patch, halved for each, has so many pixels a side."""
_FAINT = 1e-3


@torch.no_grad()
def look_statistics(images: Tensor) -> Tensor:
    """Mean, spread and correlation of optical density by channel, and detail at several sizes.

    Parameters
    ----------
    images : (B, 3, P, P)
        In [0, 1].

    Returns
    -------
    (B, L) float32
        The same L for the same P: 19 for patches of 128 px and more.
    """
    density = -torch.log((images.detach().float() * 255 + 1) / 256)
    flat = density.flatten(2)
    mean = flat.mean(dim=2)
    centred = flat - mean[..., None]
    covariance = centred @ centred.transpose(1, 2) / flat.shape[2]
    spread = covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    together = covariance / ((spread[:, :, None] + _FAINT) * (spread[:, None] + _FAINT))
    found = [mean, spread, together[:, (0, 0, 1), (1, 2, 2)]]
    on_processor = density.device.type == "cpu"
    level = sum_of_channels(density) / 3 if on_processor else density.mean(dim=1)
    for _ in range(MAX_SCALES):
        if level.shape[-1] < LEAST_SIDE_PX:
            break
        even = level[:, : level.shape[1] // 2 * 2, : level.shape[2] // 2 * 2]
        upper, lower = even[:, 0::2], even[:, 1::2]
        corners = (upper[..., 0::2], upper[..., 1::2], lower[..., 0::2], lower[..., 1::2])
        level = (corners[0] + corners[1] + corners[2] + corners[3]) / 4
        square = sum(((c - level) ** 2).mean(dim=(1, 2)) for c in corners) / 4
        absolute = sum((c - level).abs().mean(dim=(1, 2)) for c in corners) / 4
        size = torch.log(torch.sqrt(torch.as_tensor(square)) + _FAINT)
        # how much of the detail is in few spots: edges and dots against noise
        few = torch.log(torch.as_tensor(absolute) + _FAINT) - size
        found.append(torch.stack([size, few], dim=1))
    return torch.cat(found, dim=1)
