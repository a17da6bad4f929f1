"""Localisation scores of a batch of maps against masks, on the maps' device.

All depend on ranks alone. Pixels that are NaN take no part. Equal values are counted together,
so that the order of pixels in memory never decides a score.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pathology_scaat.metrics.functional._checks import check_maps, check_masks


def _ranked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positives and negatives in descending order of value, and the last and first rank of
    each value's group of equals, all (N, pixels)."""
    values = maps.flatten(1).double()
    absent = values.isnan()
    descending = torch.where(absent, float("-inf"), values).neg()
    keys, order = descending.sort(dim=1)
    present = (~absent).gather(1, order)
    positive = masks.flatten(1).gather(1, order) & present
    last = torch.searchsorted(keys, keys, right=True) - 1
    first = torch.searchsorted(keys, keys, right=False)
    return positive.double(), (present & ~positive).double(), last, first


def pixel_ap(maps: Tensor, masks: Tensor) -> Tensor:
    """Pixel average precision of each map (chance: the share of positive pixels).

    Parameters
    ----------
    maps : Tensor, (N, H, W), float
    masks : Tensor, (N, H, W), bool

    Returns
    -------
    Tensor, (N,), float32
        NaN where a mask is empty.

    Examples
    --------
    >>> import torch
    >>> pixel_ap(torch.tensor([[[0.9, 0.8, 0.1]]]), torch.tensor([[[True, False, True]]]))
    tensor([0.8333])
    """
    return average_precision(check_maps(maps), check_masks(maps, masks)).float()


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision of each row of scores (N, ...), (N,) float64; NaN without a positive.

    ``AP = sum_n (R_n - R_{n-1}) P_n`` over the thresholds in descending order, equal scores
    counted together (the definition of scikit-learn); NaN scores take no part.
    """
    found, others, last, _ = _ranked(scores, positive)
    hits = found.cumsum(1)
    seen = (found + others).cumsum(1)
    precision = hits.gather(1, last) / seen.gather(1, last).clamp(min=1)
    return (found * precision).sum(1) / found.sum(1)


def chance_ap(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of positive pixels among the valid ones, (N,): the pixel AP of a random map."""
    valid = ~check_maps(maps).isnan()
    inside = (check_masks(maps, masks) & valid).flatten(1).sum(1)
    share = inside / valid.flatten(1).sum(1)
    return torch.where(inside > 0, share, math.nan).float()


def pixel_auroc_batch(maps: Tensor, masks: Tensor) -> Tensor:
    """Pixel AUROC of each map, (N,), ties counted half; NaN where a mask is empty or full.

    Examples
    --------
    >>> import torch
    >>> pixel_auroc_batch(torch.tensor([[[0.9, 0.8, 0.1]]]), torch.tensor([[[True, False, True]]]))
    tensor([0.5000])
    """
    positive, negative, last, first = _ranked(check_maps(maps), check_masks(maps, masks))
    hits = F.pad(positive.cumsum(1), (1, 0))
    above = (hits.gather(1, first) + hits.gather(1, last + 1)) / 2
    pairs = positive.sum(1) * negative.sum(1)
    return ((negative * above).sum(1) / pairs).float()


def relevance_rank_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the |mask| best pixels that lie in the mask, (N,) (Arras et al. 2022).

    Where equal values straddle the cut, each of them counts by its expected share. NaN where
    the mask is empty.

    Examples
    --------
    >>> import torch
    >>> relevance_rank_accuracy(torch.tensor([[[3.0, 2.0, 1.0]]]),
    ...                         torch.tensor([[[True, False, True]]]))
    tensor([0.5000])
    """
    positive, negative, last, first = _ranked(check_maps(maps), check_masks(maps, masks))
    wanted = positive.sum(1, keepdim=True)
    hits = F.pad(positive.cumsum(1), (1, 0))
    seen = F.pad((positive + negative).cumsum(1), (1, 0))
    index = (wanted.long() - 1).clamp(min=0)
    before, after = first.gather(1, index), last.gather(1, index) + 1
    hits_before, group_hits = hits.gather(1, before), hits.gather(1, after) - hits.gather(1, before)
    group = (seen.gather(1, after) - seen.gather(1, before)).clamp(min=1)
    inside = hits_before + (wanted - seen.gather(1, before)) * group_hits / group
    return (inside / wanted)[:, 0].float()


def pointing_hit(maps: Tensor, masks: Tensor, tolerance_px: int = 0) -> Tensor:
    """Whether a map's largest value lies in the mask or within a distance of it.

    Parameters
    ----------
    maps : Tensor, (N, H, W), float
    masks : Tensor, (N, H, W), bool
    tolerance_px : int
        Radius of a disc; the mask is dilated by it.

    Returns
    -------
    Tensor, (N,), float32
        1, 0, a fraction where several pixels share the largest value, or NaN where the mask
        is empty (which some implementations count as a hit).

    Examples
    --------
    >>> import torch
    >>> maps = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])
    >>> pointing_hit(maps, torch.tensor([[[False, True, False]], [[False, False, False]]]))
    tensor([1., nan])
    """
    masks = check_masks(check_maps(maps), masks)
    filled = torch.where(maps.isnan(), float("-inf"), maps)
    best = (filled == filled.amax(dim=(1, 2), keepdim=True)).flatten(1).float()
    grown = masks
    if tolerance_px > 0:
        grown = dilate(masks, tolerance_px)
    share = (best * grown.flatten(1)).sum(1) / best.sum(1)
    return torch.where(masks.flatten(1).any(1), share, math.nan)


def dilate(masks: Tensor, radius_px: int) -> Tensor:
    """Masks (N, H, W) dilated by a disc."""
    axis = torch.arange(-radius_px, radius_px + 1, device=masks.device)
    disc = ((axis[:, None] ** 2 + axis[None] ** 2) <= radius_px**2).float()
    counts = F.conv2d(masks[:, None].float(), disc[None, None], padding=radius_px)
    return counts[:, 0] > 0.5


def mass_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of a map's mass inside the mask, (N,); secondary: a power transform changes it.

    Examples
    --------
    >>> import torch
    >>> mass_accuracy(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
    tensor([0.7500])
    """
    masks = check_masks(check_maps(maps), masks)
    mass = maps.nan_to_num(0.0).abs().flatten(1)
    inside = (mass * masks.flatten(1)).sum(1) / mass.sum(1)
    return torch.where(masks.flatten(1).any(1), inside, math.nan)
