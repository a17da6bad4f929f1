"""Grad-CAM and Grad-CAM++ through a forward hook, for CNNs and for vision transformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.gradients import activation_gradient, class_activation_map
from pathology_scaat.scaat.target import Output, target_score


def spatial_activation(activation: Tensor, prefix_tokens: int) -> Tensor | None:
    """(N, C, h, w) of a CNN's feature map or a transformer's tokens; None where it is neither.

    Given are (N, C, h, w), (N, h, w, C) or (N, T, C), of which ``prefix_tokens`` stand before the
    grid's.
    """
    if activation.ndim == 4:
        # Channels-last blocks (Swin, ConvNeXt) are told apart by the square in the middle.
        _n, a, b, c = activation.shape
        if a == b and b != c and c > a:
            return activation.permute(0, 3, 1, 2)
        return activation
    if activation.ndim == 3:
        for prefix in dict.fromkeys((prefix_tokens, 1, 0, 2, 5)):
            side = math.isqrt(max(activation.shape[1] - prefix, 0))
            if side > 1 and side * side == activation.shape[1] - prefix:
                tokens = activation[:, prefix:].transpose(1, 2)
                return tokens.reshape(tokens.shape[0], tokens.shape[1], side, side)
    return None


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

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
            found.append(module)

    handles = [
        m.register_forward_hook(note)
        for m in model.modules()
        if m is not model and not isinstance(m, nn.Identity)
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
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
    prefix = int(getattr(model, "num_prefix_tokens", 1))
    activation, slope = spatial_activation(kept, prefix), spatial_activation(gradient, prefix)
    if activation is None or slope is None:
        raise UsageError("grad-cam", "the layer has no spatial output", "name another layer")
    height, width = images.shape[-2:]
    maps = class_activation_map(activation, slope, (height, width), plus_plus=plus_plus)
    return maps, logits.float()
