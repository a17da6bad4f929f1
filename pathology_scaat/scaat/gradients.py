"""Gradients by the pixels: the one implementation of each that training and explaining share.

What is differentiated is given as a function of the logits: the loss in training, the score of a
class in explaining. Who calls decides what mode the network is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import UsageError

Forward = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to logits (N, K)."""

Score = Callable[[Tensor], Tensor]
"""Logits (N, K) to one number per image, (N,)."""


def sum_of_channels(images: Tensor) -> Tensor:
    """Sum over the channels, (N, C, H, W) to (N, H, W); the same bits as ``images.sum(dim=1)``.

    Torch's own sum of three numbers that lie beside each other in memory takes a processor five
    times as long as adding planes.
    """
    if images.device.type != "cpu" or images.shape[1] != 3 or torch.is_grad_enabled():
        return images.sum(dim=1)
    return (images[:, 0] + images[:, 1]).add_(images[:, 2])


def input_gradient(forward: Forward, images: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Gradient of each image's score by its pixels, (N, C, H, W), and the logits; detached.

    One forward and one backward pass to the images alone.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        logits = forward(leaf)
        (gradient,) = torch.autograd.grad(score(logits).sum(), [leaf])
    return gradient.detach(), logits.detach()


def smoothgrad(
    gradient: Callable[[Tensor], Tensor],
    images: Tensor,
    noise: Callable[[], Tensor],
    *,
    n_samples: int,
    noise_std: float,
    within_range: bool = False,
) -> Tensor:
    """Mean gradient over noisy copies (Smilkov et al. 2017), (N, C, H, W).

    Parameters
    ----------
    gradient : callable
        Images to their gradient.
    images : Tensor, (N, C, H, W)
    noise : callable
        Gives standard normal noise of the images' shape, another at each call.
    n_samples : int
    noise_std : float
        In units of the images.
    within_range : bool
        Cut the noisy copies to [0, 1].
    """
    # One sample at a time: memory stays that of a single pass.
    total = torch.zeros_like(images)
    for _ in range(n_samples):
        noisy = images + noise_std * noise()
        total += gradient(noisy.clamp(0, 1) if within_range else noisy)
    return total / n_samples


@dataclass(frozen=True)
class LayerSlopes:
    """Outputs of layers with the gradient of a score by each, and the logits; detached.

    Attributes
    ----------
    layers : tuple of (Tensor, Tensor)
        Output and gradient of each layer, both of the layer's shape.
    logits : Tensor, (N, K)
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    logits: Tensor


def slopes_at(
    forward: Forward, images: Tensor, score: Score, layers: Sequence[nn.Module]
) -> LayerSlopes:
    """Outputs of layers and the gradients of the summed score by them, from one pass each way.

    Parameters
    ----------
    forward : callable
        From images (N, C, H, W) to logits (N, K), through each of the layers.
    images : Tensor, (N, C, H, W)
    score : callable
        From logits (N, K) to a number per image, (N,).
    layers : sequence of nn.Module
        The last call counts where one is called several times.
    """
    kept: dict[int, Tensor] = {}

    def keeper(number: int) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def keep(_module: nn.Module, _inputs: object, result: Tensor) -> Tensor:
            # What follows may work in place: it gets a copy, the kept tensor stays as it is.
            activation = result if result.requires_grad else result.detach().requires_grad_(True)
            kept[number] = activation
            return activation.clone()

        return keep

    handles = [layer.register_forward_hook(keeper(k)) for k, layer in enumerate(layers)]
    try:
        with torch.enable_grad():
            logits = forward(images.detach().requires_grad_(True))
            outputs = [kept[k] for k in range(len(layers))]
            gradients = torch.autograd.grad(score(logits).sum(), outputs)
    finally:
        for handle in handles:
            handle.remove()
    pairs = zip(outputs, gradients, strict=True)
    return LayerSlopes(tuple((a.detach(), g.detach()) for a, g in pairs), logits.detach())


def activation_gradient(
    forward: Forward, images: Tensor, score: Score, layer: nn.Module
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's output, the gradient of the summed score by it, and the logits; detached.

    :func:`slopes_at` of one layer: output and gradient have its shape; logits are (N, K).
    """
    found = slopes_at(forward, images, score, [layer])
    ((activation, gradient),) = found.layers
    return activation, gradient, found.logits


@torch.no_grad()
def see_outputs(
    model: nn.Module, image: Tensor, note: Callable[[str, nn.Module, object], None]
) -> None:
    """Run a model and note what each module inside it gives, in the order they end in.

    Modules of a TorchScript program cannot be seen, nor is there anything to see in an
    ``Identity``.

    Parameters
    ----------
    model : nn.Module
    image : Tensor, (1, C, H, W)
    note : callable
        Called with a module's name, the module and its output.
    """

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _m, _inputs, output: note(name, module, output))

    handles = [
        watch(name, module)
        for name, module in model.named_modules()
        if module is not model and not isinstance(module, nn.Identity | torch.jit.ScriptModule)
    ]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()


def prefix_tokens(model: nn.Module) -> int | None:
    """Tokens that stand before those of the grid, as a transformer in the model states them."""
    stated = (getattr(module, "num_prefix_tokens", None) for module in model.modules())
    return next((count for count in stated if isinstance(count, int)), None)


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


def class_activation_map(
    activation: Tensor, slope: Tensor, size: tuple[int, int], *, plus_plus: bool = False
) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) or Grad-CAM++ (Chattopadhyay et al. 2018).

    Grad-CAM weighs channel c by the mean over positions of dS/dA_c; Grad-CAM++ by
    ``sum(alpha * relu(dS/dA_c))`` with ``alpha = g^2 / (2 g^2 + sum(A) g^3)``. The weighted sum
    of channels is cut at zero and enlarged bilinearly.

    Parameters
    ----------
    activation, slope : Tensor, (N, C, h, w)
        A layer's output, and the gradient of the score by it.
    size : (int, int)
        Height and width of the map.
    plus_plus : bool

    Returns
    -------
    Tensor, (N, H, W), float32, >= 0

    Raises
    ------
    UsageError
        If the layer's output is not spatial.
    """
    if activation.ndim != 4:
        raise UsageError("grad-cam", "the layer has no spatial output", "name another layer")
    activation, slope = activation.float(), slope.float()
    if plus_plus:
        squared = slope.square()
        below = 2 * squared + activation.sum(dim=(2, 3), keepdim=True) * squared * slope
        alpha = torch.where(below != 0, squared / torch.where(below != 0, below, 1.0), 0.0)
        weights = (alpha * slope.relu()).sum(dim=(2, 3), keepdim=True)
    else:
        weights = slope.mean(dim=(2, 3), keepdim=True)
    return _enlarged((weights * activation).sum(dim=1, keepdim=True).relu(), size)


def layer_class_activation(activation: Tensor, slope: Tensor, size: tuple[int, int]) -> Tensor:
    """LayerCAM (Jiang et al. 2021): ``relu(sum_c relu(dS/dA_c) A_c)``, enlarged bilinearly.

    Each position has weights of its own, so that it serves for layers far from the last too.

    Parameters
    ----------
    activation, slope : Tensor, (N, C, h, w)
        A layer's output, and the gradient of the score by it.
    size : (int, int)
        Height and width of the map.

    Returns
    -------
    Tensor, (N, H, W), float32, >= 0
    """
    found = (slope.float().relu() * activation.float()).sum(dim=1, keepdim=True).relu()
    return _enlarged(found, size)


def _enlarged(cam: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(cam, size=size, mode="bilinear", align_corners=False)[:, 0]
