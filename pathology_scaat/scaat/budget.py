"""From a gradient to a per-pixel budget: which pixels may change, and how far.

Shapes: images and gradients (B, C, H, W); saliency maps and budgets (B, 1, H, W), float32.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pathology_scaat.scaat.options import ScaatOptions


def pixel_saliency(attribution: Tensor, smooth_px: int = 3) -> Tensor:
    """Largest |attribution| over channels, box-filtered: (B, C, H, W) to (B, 1, H, W) float32."""
    saliency = attribution.detach().float().abs().amax(dim=1, keepdim=True)
    if smooth_px > 1:
        saliency = F.avg_pool2d(
            saliency, smooth_px, stride=1, padding=smooth_px // 2, count_include_pad=False
        )
    return saliency


def tissue_region(images: Tensor, threshold: float) -> Tensor:
    """True where the darkest channel lies below ``threshold``: (B, 1, H, W) bool.

    Glass is bright in every channel; any stain darkens at least one.
    """
    return images.detach().amin(dim=1, keepdim=True) < threshold


def quantile_per_image(values: Tensor, ratio: float, region: Tensor | None) -> Tensor:
    """The ``ceil(ratio * n)``-th smallest value of each image, n counted in the region.

    Values are (B, ...), a region is bool of their shape. Returns (B, 1); ``-inf`` where nothing is
    to be chosen. One ``kthvalue`` where all images have the same n; a sort only where a region
    makes them differ.
    """
    flat = values.flatten(1)
    if region is None:
        k = math.ceil(ratio * flat.shape[1])
        if k < 1:
            return torch.full_like(flat[:, :1], -math.inf)
        return flat.kthvalue(k, dim=1, keepdim=True).values
    inside = region.flatten(1)
    counts = torch.ceil(ratio * inside.sum(dim=1, keepdim=True)).long()
    ordered = flat.masked_fill(~inside, math.inf).sort(dim=1).values
    found = ordered.gather(1, (counts - 1).clamp_min(0))
    return torch.where(counts > 0, found, torch.full_like(found, -math.inf))


def pixel_budget(
    saliency: Tensor,
    options: ScaatOptions,
    *,
    region: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Share of eps that each pixel may use, (B, 1, H, W) float32 in [0, 1].

    Saliency is (B, 1, H, W), the region (B, 1, H, W) bool: outside it nothing changes.

    ``low``: the least salient ``mask_ratio`` of the pixels (ties included); with ``gamma > 0``
    the share is ``(1 - s/s_k)**gamma`` below the quantile s_k, or the same of ranks. ``high``
    ranks the other way round, ``random`` by random numbers (same area), ``all`` everything.

    ``gamma = 0`` is the indicator and is coded so: ``0**0 = 1`` would unmask every pixel.
    """
    inside = None if region is None else region.expand_as(saliency)
    if options.where == "all":
        budget = torch.ones_like(saliency)
        return budget if inside is None else budget * inside
    if options.where == "random":
        ranked = torch.rand(
            saliency.shape, generator=generator, device=saliency.device, dtype=saliency.dtype
        )
    elif options.where == "high":
        ranked = saliency.amax(dim=(1, 2, 3), keepdim=True) - saliency
    else:
        ranked = saliency
    if options.budget == "rank" and options.gamma > 0:
        flat = (
            ranked.flatten(1)
            if inside is None
            else ranked.flatten(1).masked_fill(~inside.flatten(1), math.inf)
        )
        ranks = flat.argsort(dim=1).argsort(dim=1).to(ranked.dtype)
        ranked = ranks.view_as(ranked)
    threshold = quantile_per_image(ranked, options.mask_ratio, region=inside)[:, :, None, None]
    chosen = ranked <= threshold
    if options.where != "random":
        # a loss so small that its gradient is rounded to zero says nothing about any pixel
        chosen = chosen & (saliency.amax(dim=(1, 2, 3), keepdim=True) > 0)
    if inside is not None:
        chosen = chosen & inside
    if options.gamma == 0:
        return chosen.to(saliency.dtype)
    relative = torch.where(threshold > 0, ranked / threshold, torch.zeros_like(ranked))
    return torch.where(chosen, (1 - relative).clamp(0, 1) ** options.gamma, 0.0)
