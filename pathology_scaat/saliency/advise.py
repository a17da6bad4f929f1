"""ADVISE: class activation maps whose units are weighed by their own relevance.

**A reconstruction** of Dehshibi et al. 2022 (arXiv 2203.01289) from what is published. Known of it:
a unit (channel) of a feature map is relevant by the number of peaks of the density of its
activations, estimated with a kernel of locally adaptive bandwidth; maps are gradient-weighted
sums of units chosen by that number. Ours differs where it must decide: the bandwidth is
Abramson's square-root law (theirs is found by an iterative search of the L2 loss), and where theirs
shows one map for each number of peaks, ours is one map, each unit weighed by its share of the
largest number.

Images are (N, C, H, W) float in [0, 1], ``classes`` (N,) int64: the class that is explained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.cam import find_cam_layer
from pathology_scaat.scaat.gradients import (
    activation_gradient,
    class_activation_map,
    prefix_tokens,
    spatial_activation,
)
from pathology_scaat.scaat.target import Output, target_score

if TYPE_CHECKING:
    from pathology_scaat.saliency.attribution import AttributionOptions

GRID = 64
"""Points at which a density is looked at."""
MARGIN = 0.25
"""How far the points go beyond the smallest and largest activation, in units of their distance."""


def _density(at: Tensor, values: Tensor, width: Tensor) -> Tensor:
    """Gaussian kernel density, (U, G), at points (U, G) of values (U, P) with widths (U, P)."""
    away = (at[:, :, None] - values[:, None, :]) / width[:, None, :]
    return (torch.exp(-0.5 * away.square()) / width[:, None, :]).mean(dim=2)


def count_peaks(activations: Tensor) -> Tensor:
    """Peaks of the adaptive density of each unit's activations.

    Parameters
    ----------
    activations : Tensor, (U, P)
        P activations of each of U units.

    Returns
    -------
    Tensor, (U,), int64
        0 for a unit that is the same everywhere.

    Examples
    --------
    >>> import torch
    >>> two = torch.tensor([[0.0, 0.01, 0.02, 0.98, 0.99, 1.0], [1.0] * 6])
    >>> count_peaks(two)
    tensor([2, 0])
    """
    values = activations.float()
    low = values.amin(dim=1, keepdim=True)
    span = values.amax(dim=1, keepdim=True) - low
    is_flat = span[:, 0] <= 1e-12
    scaled = (values - low) / span.clamp_min(1e-12)
    n = values.shape[1]
    spread = scaled.std(dim=1, keepdim=True, unbiased=False).clamp_min(1e-3)
    between = (scaled.quantile(0.75, dim=1) - scaled.quantile(0.25, dim=1))[:, None] / 1.34
    spread = torch.where(between > 1e-3, torch.minimum(spread, between), spread)
    pilot = (0.9 * spread * n**-0.2).expand_as(scaled)
    found = _density(scaled, scaled, pilot).clamp_min(1e-12)
    middle = found.log().mean(dim=1, keepdim=True).exp()
    # less dense, wider; no narrower than the points at which it is looked at can show
    step = (1 + 2 * MARGIN) / (GRID - 1)
    width = (pilot * (middle / found).sqrt()).clamp_min(step)
    at = torch.linspace(-MARGIN, 1 + MARGIN, GRID, device=values.device).expand(len(values), GRID)
    height = _density(at, scaled, width)
    inner = height[:, 1:-1]
    peaks = ((inner > height[:, :-2]) & (inner >= height[:, 2:])).sum(dim=1)
    return torch.where(is_flat, 0, peaks)


def unit_relevance(activation: Tensor) -> Tensor:
    """Relevance of each unit of (N, C, h, w), (N, C) in [0, 1]: its peaks by the image's most."""
    peaks = torch.stack([count_peaks(units.flatten(1)) for units in activation]).float()
    return peaks / peaks.amax(dim=1, keepdim=True).clamp_min(1)


def advise_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """ADVISE (reconstruction): Grad-CAM over units weighed by their relevance.

    Returns the map, (N, H, W), not negative, and the logits, (N, K).

    Raises
    ------
    UsageError
        If the layer has no spatial output.
    """
    chosen = options.layer if options.layer is not None else find_cam_layer(model, images[:1])
    kept, gradient, logits = activation_gradient(
        model, images, lambda logits: target_score(logits, classes, output), chosen
    )
    stated = prefix_tokens(model)
    prefix = 1 if stated is None else stated
    activation = spatial_activation(kept, prefix)
    slope = spatial_activation(gradient, prefix)
    if activation is None or slope is None:
        raise UsageError("advise", "the layer has no spatial output", "name another layer")
    weighed = activation * unit_relevance(activation)[:, :, None, None]
    height, width = images.shape[-2:]
    return class_activation_map(weighed, slope, (height, width)), logits.float()
