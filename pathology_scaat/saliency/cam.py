"""Class activation maps through forward hooks, for CNNs and for vision transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.fused_cam import fused_cam, fused_layers
from pathology_scaat.scaat.gradients import (
    activation_gradient,
    class_activation_map,
    prefix_tokens,
    see_outputs,
    spatial_activation,
)
from pathology_scaat.scaat.target import Output, target_score
from pathology_scaat.scaat.token_cam import TokenBlocks, token_blocks, token_cam

if TYPE_CHECKING:
    from pathology_scaat.saliency.attribution import AttributionOptions


def find_cam_layer(model: nn.Module, image: Tensor) -> nn.Module:
    """The last module whose output still has at least 2 x 2 positions.

    In a transformer the last block's output reaches the class token only: its own tokens get
    no gradient. There the block's first normalisation (the input of the last attention) is
    taken, as is usual.

    Parameters
    ----------
    model : nn.Module
    image : Tensor, (1, C, H, W)
        What a forward pass is tried with, in 0..1.

    Raises
    ------
    UsageError
        If no module has such an output.
    """
    found: list[nn.Module] = []
    transformer = next(
        (m for m in model.modules() if isinstance(getattr(m, "blocks", None), nn.Sequential)), None
    )
    if transformer is not None and hasattr(transformer, "cls_token"):
        norm = getattr(list(transformer.blocks)[-1], "norm1", None)  # type: ignore[arg-type]
        if isinstance(norm, nn.Module):
            return norm

    def note(_name: str, module: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
            found.append(module)

    see_outputs(model, image, note)
    if not found:
        raise UsageError(
            "grad-cam",
            "finds no layer with a spatial output in this model",
            "choose another method or name a layer",
        )
    return found[-1]


def grad_cam(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    output: Output = "margin",
    *,
    layer: nn.Module | None = None,
    plus_plus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Class activation map, (N, H, W) float32 >= 0 at image size, and the logits (N, K).

    See :func:`~pathology_scaat.scaat.gradients.class_activation_map`; a vision transformer's
    tokens are laid out as the grid that they come from.

    Raises
    ------
    UsageError
        If the layer, or every layer, has no spatial output.
    """
    chosen = layer if layer is not None else find_cam_layer(model, images[:1])
    kept, gradient, logits = activation_gradient(
        model, images, lambda logits: target_score(logits, target, output), chosen
    )
    stated = prefix_tokens(model)
    prefix = 1 if stated is None else stated
    activation, slope = spatial_activation(kept, prefix), spatial_activation(gradient, prefix)
    if activation is None or slope is None:
        raise UsageError("grad-cam", "the layer has no spatial output", "name another layer")
    height, width = images.shape[-2:]
    maps = class_activation_map(activation, slope, (height, width), plus_plus=plus_plus)
    return maps, logits.float()


def fused_cam_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Grad-CAM of the coarsest layer and LayerCAM of finer ones, as their geometric mean.

    Returns the map, (N, H, W) float32, not negative, and the logits, (N, K).

    Raises
    ------
    UsageError
        If the network has no layers of two resolutions.
    """
    layers = _once(_LAYERS, fused_layers, model, images)
    maps, logits = fused_cam(
        model, images, lambda logits: target_score(logits, classes, output), layers
    )
    return maps, logits.float()


Found = TypeVar("Found")
Kept: TypeAlias = "WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Found]]"
_LAYERS: Kept[list[nn.Module]] = WeakKeyDictionary()
_BLOCKS: Kept[TokenBlocks] = WeakKeyDictionary()


def _once(
    kept: Kept[Found],
    find: Callable[[nn.Module, Sequence[int], torch.device], Found],
    model: nn.Module,
    images: Tensor,
) -> Found:
    """What a model is made of, looked for once a model and size of images (N, C, H, W)."""
    size = tuple(images.shape[1:])
    known = kept.get(model)
    if known is None or known[0] != size:
        known = kept[model] = (size, find(model, size, images.device))
    return known[1]


def token_cam_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Grad-CAM of the last block and LayerCAM of the upper half of blocks: their geometric mean.

    Returns the map, (N, H, W) float32, not negative, and the logits, (N, K).

    Raises
    ------
    UsageError
        If the network has no blocks of attention over one grid of tokens.
    """
    blocks = _once(_BLOCKS, token_blocks, model, images)
    maps, logits = token_cam(
        model, images, lambda logits: target_score(logits, classes, output), blocks
    )
    return maps, logits.float()
