"""The grid that a network lays over an image before it looks at it.

A transformer cuts the image into tokens, a CNN halves it in its stem. Within one cell of that
grid the input gradient follows the weights of one filter, not the image: which pixels of a cell
are the least salient says more of the filter than of the tissue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.target import evaluating

Cell = tuple[int, int]
"""Height and width of a cell, px."""

_CONVOLUTIONS = (nn.Conv2d,)
_POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)


def _pair(value: Any) -> Cell:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (value, value)


def _embedding_cell(model: nn.Module) -> Cell | None:
    """The patch size of a transformer's embedding, as timm's modules state it."""
    for name, module in model.named_modules():
        ratio = getattr(module, "feat_ratio", None)
        if name.rpartition(".")[2] == "patch_embed" and callable(ratio):
            return _pair(ratio(as_scalar=False))
    return None


def _stem_cell(model: nn.Module, images: Tensor) -> Cell:
    """Product of the strides in front of the first convolution without one, in the order of use."""
    height, width = 1, 1
    is_over = False

    def follow(module: nn.Module, _inputs: object, _output: object) -> None:
        nonlocal height, width, is_over
        stride = _pair(module.stride)
        if stride == (1, 1):
            is_over = is_over or isinstance(module, _CONVOLUTIONS)
        elif not is_over:
            height, width = height * stride[0], width * stride[1]

    wanted = (*_CONVOLUTIONS, *_POOLINGS)
    handles = [m.register_forward_hook(follow) for m in model.modules() if isinstance(m, wanted)]
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return height, width


def network_cell(model: nn.Module, images: Tensor) -> Cell:
    """Height and width in px of the cells that a network's first layers cut images into.

    The patch size of a transformer's embedding where the model has one that states it (timm);
    else the product of the strides of the convolutions and poolings that stand in front of the
    first convolution of stride 1, found by one forward pass in evaluation mode: 16 for a
    ViT-S/16 or a stem of four halvings, 4 for a ResNet or ConvNeXt, 2 for an EfficientNet.

    Parameters
    ----------
    model : nn.Module
        Compiled or not; nothing of it is changed.
    images : Tensor of shape (B, C, H, W)
        Images that it takes; the first is looked at.

    Raises
    ------
    UsageError
        If the network has no grid but the pixels (VGG).
    """
    eager = getattr(model, "_orig_mod", model)
    cell = _embedding_cell(eager) or _stem_cell(eager, images[:1].detach())
    if cell == (1, 1):
        raise UsageError(
            "grid", "this network's first layers have no grid but the pixels", "choose 'pixel'"
        )
    return cell


def pooled(values: Tensor, cell: Cell) -> Tensor:
    """Mean over each cell, (B, C, H, W) to (B, C, ceil(H / h), ceil(W / w)).

    Cells begin at the top left; those that the border cuts are averaged over what is there.
    """
    return F.avg_pool2d(values, cell, stride=cell, ceil_mode=True, count_include_pad=False)


def spread(values: Tensor, cell: Cell, size: tuple[int, int]) -> Tensor:
    """Each cell's value over all its pixels, (B, C, h, w) to (B, C, *size)."""
    wide = values.repeat_interleave(cell[0], dim=2).repeat_interleave(cell[1], dim=3)
    return wide[:, :, : size[0], : size[1]]


def on_grid(
    budget: Callable[[Tensor, Tensor | None], Tensor],
    saliency: Tensor,
    region: Tensor | None,
    cell: Cell,
) -> Tensor:
    """A budget decided by whole cells, (B, 1, H, W), constant within each.

    Parameters
    ----------
    budget : callable
        Saliency (B, 1, h, w) and region (bool, the same, or None) to a budget of that shape.
    saliency : Tensor of shape (B, 1, H, W)
    region : Tensor of shape (B, 1, H, W), optional
        A cell belongs to it if at least half of its pixels do.
    cell : (int, int)
    """
    inside = None if region is None else pooled(region.float(), cell) >= 0.5
    shares = budget(pooled(saliency, cell), inside)
    return spread(shares, cell, (saliency.shape[-2], saliency.shape[-1]))
