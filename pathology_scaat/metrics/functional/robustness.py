"""Infidelity, sensitivity and stability, each freed of the size of the gradient.

Robust training shrinks gradients: unnormalised infidelity and sensitivity would improve for
free. Here both are ratios.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.metrics.functional._checks import check_maps
from pathology_scaat.metrics.functional.faithfulness import Explain
from pathology_scaat.scaat.noise import image_noise
from pathology_scaat.scaat.target import evaluating, target_score


@torch.no_grad()
def infidelity(
    model: nn.Module,
    images: Tensor,
    signed: Tensor,
    target: Tensor,
    *,
    noise_std: float = 0.05,
    n_samples: int = 10,
    seed: int = 0,
    index: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Share of the margin's change under noise that the attribution does not explain.

    For noise I, predicted change ``p = sum(I * A)`` and true change ``d = f(x) - f(x - I)``,
    the value is ``min_b E[(b p - d)^2] / E[d^2] = 1 - E[p d]^2 / (E[p^2] E[d^2])``: Yeh et
    al.'s (2019) infidelity with their optimal scaling b, relative to explaining nothing.

    Parameters
    ----------
    model : nn.Module
    images, signed : Tensor, (N, C, H, W)
        Images in 0..1 and their *signed* attribution.
    target : Tensor, (N,)
    noise_std : float
        Of the Gaussian noise, pixel units of 0..1.
    n_samples, seed : int
    index : sequence of int or Tensor, (N,), optional
        Number of each image, which its noise is drawn by; else its index here.

    Returns
    -------
    Tensor, (N,), 0 (all explained) to 1 (nothing); NaN where nothing changes.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1, bias=False))
    >>> weights = model[1].weight.detach().view(1, 3, 2, 2).expand(5, 3, 2, 2)
    >>> infidelity(model, torch.rand(5, 3, 2, 2), weights, torch.ones(5)).round(decimals=4)
    tensor([0., 0., 0., 0., 0.])
    """
    drawn = image_noise(seed, index, len(images))
    predicted, changed = [], []
    with evaluating(model):
        clean = target_score(model(images), target)
        for _ in range(n_samples):
            noise = noise_std * drawn.normal(images)
            predicted.append((noise * signed).flatten(1).sum(1).double())
            changed.append((clean - target_score(model(images - noise), target)).double())
    p, d = torch.stack(predicted), torch.stack(changed)
    explained = (p * d).mean(0) ** 2 / (p.square().mean(0) * d.square().mean(0))
    return (1 - explained).clamp(0, 1).float()


def relative_sensitivity(
    explain: Explain,
    images: Tensor,
    *,
    radius: float = 2 / 255,
    n_samples: int = 4,
    seed: int = 0,
    index: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Largest relative change of a map under uniform noise: max ||A(x+n) - A(x)|| / ||A(x)||.

    Max-sensitivity of Yeh et al. 2019 over the map's own norm; (N,), NaN where a map is zero.
    Images are (N, C, H, W) in [0, 1]. ``index`` is the number of each image, which its noise is
    drawn by; else its index here.

    Examples
    --------
    >>> import torch
    >>> relative_sensitivity(lambda x: torch.ones(len(x), 4, 4), torch.rand(2, 3, 4, 4))
    tensor([0., 0.])
    """
    drawn = image_noise(seed, index, len(images))
    clean = explain(images).flatten(1)
    norm = clean.norm(dim=1)
    worst = torch.zeros_like(norm)
    for _ in range(n_samples):
        moved = explain((images + radius * drawn.uniform(images)).clamp(0, 1)).flatten(1)
        worst = torch.maximum(worst, (moved - clean).norm(dim=1))
    return torch.where(norm > 0, worst / norm, torch.nan)


def _average_ranks(flat: Tensor) -> Tensor:
    keys = flat.sort(dim=1).values
    first = torch.searchsorted(keys, flat, right=False)
    last = torch.searchsorted(keys, flat, right=True)
    return (first + last).double() / 2


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of two maps' pixels, (N,), equal values given their mean rank.

    Maps are (N, H, W) float. NaN where a map is constant or not finite.

    Examples
    --------
    >>> import torch
    >>> spearman(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, 4.0, 9.0]]]))
    tensor([1.])
    """
    a, b = check_maps(first).flatten(1), check_maps(second).flatten(1)
    broken = ~(a.isfinite().all(1) & b.isfinite().all(1))
    ranks = [_average_ranks(m.nan_to_num(0.0).contiguous()) for m in (a, b)]
    x, y = (r - r.mean(dim=1, keepdim=True) for r in ranks)
    scale = x.norm(dim=1) * y.norm(dim=1)
    value = ((x * y).sum(1) / scale).clamp(-1, 1)
    return torch.where(broken | (scale == 0), torch.nan, value).float()


def ssim(first: Tensor, second: Tensor, sigma_px: float = 1.5) -> Tensor:
    """Structural similarity of two maps, each divided by its own largest value: (N,).

    Maps are (N, H, W) float. Wang et al. 2004 with a Gaussian window truncated at 3.5 sigma, data
    range 1, and the border of half a window left out. NaN where a map is zero or not finite.

    Examples
    --------
    >>> import torch
    >>> maps = torch.rand(2, 16, 16)
    >>> ssim(maps, 3 * maps)
    tensor([1., 1.])
    """
    maxima = [check_maps(m).amax(dim=(1, 2)) for m in (first, second)]
    broken = ~((maxima[0] > 0) & (maxima[1] > 0) & maxima[0].isfinite() & maxima[1].isfinite())
    x, y = (
        (m / torch.where(t > 0, t, 1.0)[:, None, None]).nan_to_num(0.0)[:, None].double()
        for m, t in zip((first, second), maxima, strict=True)
    )
    radius = int(3.5 * sigma_px + 0.5)
    axis = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma_px) ** 2)
    window = (kernel[:, None] * kernel[None]) / kernel.sum() ** 2

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window[None, None])

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    value = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return torch.where(broken, torch.nan, value.mean(dim=(1, 2, 3)).float())
