"""How concentrated a map is: a description, never a proof of quality.

Any power of a map makes it sparser and keeps its ranking, so that a model can be sparser
without being better.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pathology_scaat.metrics.functional._checks import check_maps


def gini_index(maps: Tensor) -> Tensor:
    """Gini index of the absolute values of each map.

    ``G = 1 - 2 sum_k (a_(k) / sum(a)) (n - k + 1/2) / n`` for ascending ``a_(k)`` (Hurley and
    Rickard 2009): 0 for a constant map, ``1 - 1/n`` when one pixel holds everything.

    Parameters
    ----------
    maps : Tensor, (N, H, W), float

    Returns
    -------
    Tensor, (N,), float32
        NaN where a map is all zero or not finite.

    Examples
    --------
    >>> import torch
    >>> gini_index(torch.tensor([[[1.0, 1.0]], [[0.0, 3.0]], [[0.0, 0.0]]]))
    tensor([0.0000, 0.5000,    nan])
    """
    ordered = check_maps(maps).flatten(1).abs().double().sort(dim=1).values
    n = ordered.shape[1]
    rank = torch.arange(1, n + 1, device=maps.device, dtype=torch.float64)
    share = ordered / ordered.sum(dim=1, keepdim=True)
    return (1 - 2 * (share * ((n - rank + 0.5) / n)).sum(dim=1)).float()


def map_entropy(maps: Tensor) -> Tensor:
    """Shannon entropy of each map taken as a distribution, divided by its largest, log n.

    1 for a constant map, 0 when one pixel holds everything.

    Parameters
    ----------
    maps : Tensor, (N, H, W), float

    Returns
    -------
    Tensor, (N,), float32
        NaN where a map is all zero or not finite.

    Examples
    --------
    >>> import torch
    >>> map_entropy(torch.tensor([[[1.0, 1.0]], [[0.0, 3.0]]]))
    tensor([1., 0.])
    """
    flat = check_maps(maps).flatten(1).abs().double()
    share = flat / flat.sum(dim=1, keepdim=True)
    entropy = -torch.xlogy(share, share).sum(dim=1)
    # Adding zero turns the -0 of a one-pixel map into 0.
    return (entropy / math.log(max(flat.shape[1], 2)) + 0.0).clamp(min=0.0).float()


def sharpen_to_gini(maps: Tensor, gini: Tensor, steps: int = 30) -> Tensor:
    """Raise each map to the power that gives it the wanted Gini index; ranks are unchanged.

    A control: where a sparser model's advantage is also had by sharpening the plain model's
    map, the advantage is cosmetic.

    Parameters
    ----------
    maps : Tensor, (N, H, W), >= 0
    gini : Tensor, (N,) or scalar, 0 to below 1
    steps : int
        Bisections of the exponent between 1/64 and 64.

    Returns
    -------
    Tensor, (N, H, W)
        Each scaled to a largest value of 1.

    Examples
    --------
    >>> import torch
    >>> sharp = sharpen_to_gini(torch.rand(2, 8, 8), torch.tensor(0.7))
    >>> [round(g, 2) for g in gini_index(sharp).tolist()]
    [0.7, 0.7]
    """
    top = check_maps(maps).abs().amax(dim=(1, 2), keepdim=True)
    unit = maps.abs() / torch.where(top > 0, top, torch.ones_like(top))
    wanted = gini.to(maps).expand(maps.shape[0])
    low = torch.full_like(wanted, -6.0)
    high = torch.full_like(wanted, 6.0)
    for _ in range(steps):
        middle = (low + high) / 2
        sparser = gini_index(unit ** torch.exp2(middle)[:, None, None]) > wanted
        high = torch.where(sparser, middle, high)
        low = torch.where(sparser, low, middle)
    return unit ** torch.exp2((low + high) / 2)[:, None, None]
