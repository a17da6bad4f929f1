"""Remove and retrain (ROAR): does a *new* model miss what the map called relevant?

Train the same plain learner on images whose most (or least) relevant share is replaced by the
mean colour, in training and in test: the more accuracy is lost, the more the map named what
carries the class (Hooker et al. 2019). Comparing with a random order shows what is lost by the
removal as such.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional._checks import check_images, check_maps
from pathology_scaat.metrics.functional.faithfulness import (
    cell_ranks,
    default_cell_px,
    hidden_pixels,
)


def remove_relevant(
    images: Tensor,
    maps: Tensor,
    share: float,
    *,
    order: Literal["most", "least", "random"] = "most",
    mean_colour: Tensor | None = None,
    cell_px: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Images with a share of their cells replaced by the mean colour.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), 0..1
    maps : Tensor, (N, H, W)
    share : float
        0 to 1.
    order : {"most", "least", "random"}
        Which cells go.
    mean_colour : Tensor, (C,), optional
        Of the training set; else of these images.
    cell_px : int, optional
        Side of the cells.
    seed : int
        Of the random order and of equal cells.

    Returns
    -------
    Tensor, (N, C, H, W)

    Raises
    ------
    UsageError
        If images and maps do not fit, or the share is not within 0 to 1.

    Examples
    --------
    >>> import torch
    >>> images = torch.tensor([[[[0.0, 1.0]]]])
    >>> remove_relevant(images, torch.tensor([[[1.0, 2.0]]]), 0.5, cell_px=1)
    tensor([[[[0.0000, 0.5000]]]])
    """
    check_images(images, check_maps(maps))
    if not 0 <= share <= 1:
        raise UsageError("share", f"{share} is not within 0 to 1", "give e.g. 0.5")
    height, width = images.shape[2:]
    cell = cell_px or default_cell_px(min(height, width))
    if order == "random":
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(maps.shape, generator=generator).to(maps.device)
    ranks = cell_ranks(maps, cell, seed)
    if order == "least":
        ranks = ranks.shape[1] - 1 - ranks
    hidden = hidden_pixels(ranks, share, (height, width), cell)
    colour = images.mean(dim=(0, 2, 3)) if mean_colour is None else mean_colour.to(images)
    return torch.where(hidden[:, None], colour[None, :, None, None], images)
