"""Grad-CAM and Grad-CAM++ through a forward hook, for CNNs and for vision transformers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.target import Output, target_score


def _spatial(activation: Tensor, prefix_tokens: int) -> Tensor | None:
    """(N, C, h, w) of a CNN's feature map or a transformer's tokens; None where it is neither."""
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
    """The last module whose output still has at least 2 x 2 places.

    In a transformer the last block's output reaches the class token only: its own tokens get
    no gradient. There the block's first normalisation (the input of the last attention) is
    taken, as is usual.
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

    Grad-CAM weighs channel c by the mean over places of dS/dA_c; Grad-CAM++ by
    ``sum(alpha * relu(dS/dA_c))`` with ``alpha = g^2 / (2 g^2 + sum(A) g^3)``. The weighted sum
    of channels is cut at zero and enlarged bilinearly.
    """
    chosen = layer if layer is not None else find_cam_layer(model, images[:1])
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, result: Tensor) -> Tensor:
        # What follows may work in place: it gets a copy, the kept tensor stays as it is.
        activation = result if result.requires_grad else result.detach().requires_grad_(True)
        kept.append(activation)
        return activation.clone()

    handle = chosen.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_(True))
            score = target_score(logits, target, output).sum()
            (gradient,) = torch.autograd.grad(score, [kept[-1]])
    finally:
        handle.remove()
    prefix = int(getattr(model, "num_prefix_tokens", 1))
    activation, slope = _spatial(kept[-1].detach(), prefix), _spatial(gradient, prefix)
    if activation is None or slope is None:
        raise UsageError("grad-cam", "the layer has no spatial output", "name another layer")
    activation, slope = activation.float(), slope.float()
    if plus_plus:
        squared = slope.square()
        below = 2 * squared + activation.sum(dim=(2, 3), keepdim=True) * squared * slope
        alpha = torch.where(below != 0, squared / torch.where(below != 0, below, 1.0), 0.0)
        weights = (alpha * slope.relu()).sum(dim=(2, 3), keepdim=True)
    else:
        weights = slope.mean(dim=(2, 3), keepdim=True)
    cam = (weights * activation).sum(dim=1, keepdim=True).relu()
    full = F.interpolate(cam, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return full[:, 0], logits.detach().float()
