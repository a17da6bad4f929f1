"""SCAAT in feature space: the change is made to a layer's output instead of the pixels.

Where in the network is what ``layer`` names. The saliency is that of the layer's positions: the
largest |gradient| over the channels of a position, or over the features of a token, from the clean
pass that is made anyway. Activations have no unit of their own, so ``eps`` counts in the root
mean square of each image's activations at the layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.batch_norm import batch_norm_policy, frozen_parameters
from pathology_scaat.scaat.budget import pixel_budget, pixel_saliency
from pathology_scaat.scaat.gradients import activation_gradient
from pathology_scaat.scaat.method import Backward, StepLosses
from pathology_scaat.scaat.options import ScaatOptions
from pathology_scaat.system.names import did_you_mean

if TYPE_CHECKING:
    from pathology_scaat.scaat.scaat import SCAAT


def layer_named(model: nn.Module, name: str) -> nn.Module:
    """The module of that name; of a compiled network, that of the network itself.

    Raises
    ------
    UsageError
        If there is none; the error names the nearest ones.
    """
    eager = getattr(model, "_orig_mod", model)
    modules: dict[str, nn.Module] = {n: m for n, m in eager.named_modules() if n}
    found = [m for n, m in modules.items() if n == name or n.endswith(f".{name}")]
    if name in modules:
        return modules[name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError("layer", f"'{name}' is the end of {len(found)} names", "write more of it")
    outer = tuple(dict.fromkeys(".".join(n.split(".")[:3]) for n in modules))
    shown = ", ".join(outer[:12])
    raise UsageError(
        "layer", f"the network has no '{name}'", f"{did_you_mean(name, outer)} e.g. {shown}".strip()
    )


@contextmanager
def kept_output(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect a layer's output, whose gradient is then kept by a backward pass.

    What is collected is (B, C, h, w) or (B, T, D), one Tensor for each forward pass.

    Raises
    ------
    UsageError
        In the forward pass, if the layer gives anything else.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim not in (3, 4):
            raise UsageError(
                "layer", "gives no map (B, C, H, W) and no tokens (B, T, D)", "name another layer"
            )
        activation = output if output.requires_grad else output.detach().requires_grad_(True)
        activation.retain_grad()
        kept.append(activation)
        return activation.clone()  # what follows may work in place

    handle = layer.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def check_layer(model: nn.Module, name: str, images: Tensor) -> None:
    """Refuse a layer whose output cannot be changed: found out by a forward pass.

    Parameters
    ----------
    model : nn.Module
    name : str
        Of the layer.
    images : Tensor of shape (B, C, H, W)
        What the forward pass is made of.

    Raises
    ------
    UsageError
        If there is none of that name, it is not passed through, or gives no map and no tokens.
    """
    with kept_output(layer_named(model, name)) as kept:
        model(images)
    if not kept:
        raise UsageError("layer", f"'{name}' takes no part in the result", "name another layer")


@contextmanager
def moved_output(layer: nn.Module, change: Tensor) -> Iterator[None]:
    """Add a change to a layer's output, of its shape: (B, C, h, w) or (B, T, D)."""
    handle = layer.register_forward_hook(
        lambda _module, _inputs, output: output + change.to(output.dtype)
    )
    try:
        yield
    finally:
        handle.remove()


def _with_position_axes(values: Tensor) -> Tensor:
    """Channels second and two spatial axes: tokens (B, T, D) become (B, D, T, 1)."""
    return values if values.ndim == 4 else values.transpose(1, 2)[..., None]


def _like(values: Tensor, activation: Tensor) -> Tensor:
    """(B, 1, h, w) as the activation's axes have it."""
    return values if activation.ndim == 4 else values[..., 0].transpose(1, 2)


def feature_budget(
    activation: Tensor,
    gradient: Tensor,
    options: ScaatOptions,
    eps: float,
    generator: torch.Generator,
) -> Tensor:
    """How far each position may move, (B, 1, h, w) or (B, T, 1), in units of the activations.

    Parameters
    ----------
    activation, gradient : Tensor of shape (B, C, h, w) or (B, T, D)
        A layer's output, and the slope of each image's own loss by it.
    options : ScaatOptions
        Budgets are those of pixels, over positions; ``smooth_px`` counts in positions of a map, and
        tokens, which are in a row, are not smoothed.
    eps : float
        Of this step, in the root mean square of an image's activations.
    """
    smooth = options.smooth_px if activation.ndim == 4 else 1
    saliency = pixel_saliency(_with_position_axes(gradient), smooth)
    share = pixel_budget(saliency, options, generator=generator)
    if options.unmasked_share > 0:
        draw = torch.rand((len(share), 1, 1, 1), generator=generator, device=share.device)
        share = torch.where(draw < options.unmasked_share, torch.ones_like(share), share)
    scale = activation.detach().float().flatten(1).square().mean(dim=1).sqrt()
    return _like(share * scale[:, None, None, None] * eps, activation)


def _eager(method: SCAAT) -> SCAAT:
    """The method on its network uncompiled: a compiled one runs no hook."""
    eager = copy.copy(method)
    eager.model = getattr(method.model, "_orig_mod", method.model)
    return eager


def _layer_gradient(
    eager: SCAAT, images: Tensor, labels: Tensor, layer: nn.Module, change: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's output, changed if asked, the losses' slope by it, and the logits."""

    def losses(logits: Tensor) -> Tensor:
        return eager.objective.per_image(logits, labels)

    with frozen_parameters(eager.model), batch_norm_policy(eager.model, "clean"):
        if change is None:
            return activation_gradient(eager.forward, images, losses, layer)
        with moved_output(layer, change):
            return activation_gradient(eager.forward, images, losses, layer)


@torch.no_grad()
def feature_change(
    eager: SCAAT, images: Tensor, labels: Tensor, activation: Tensor, gradient: Tensor,
    logits: Tensor, layer: nn.Module,
) -> Tensor:  # fmt: skip
    """What is added to the layer's output, of its shape, within the budget of each position.

    Parameters
    ----------
    eager : SCAAT
        On the network uncompiled.
    images : Tensor of shape (B, C, H, W)
        In [0, 1].
    labels : Tensor
        As the objective wants them.
    activation, gradient : Tensor of shape (B, C, h, w) or (B, T, D)
        The layer's output, and the slope of each image's own loss by it.
    logits : Tensor of shape (B, K)
        Of the unchanged images.
    layer : nn.Module
    """
    options, gradient = eager.options, gradient.float()
    noise = None if options.random_start == "none" else eager.uniform(gradient)
    generator = eager.generator(images.device)
    budget = feature_budget(activation, gradient, options, eager.eps_now, generator)
    if options.sample_scale != "none":
        scale = eager.sample_scale_of(logits, labels, gradient, budget)
        budget = budget * scale.reshape(-1, *[1] * (budget.ndim - 1))
    relative = eager.attack_step(gradient)
    relative = (relative if noise is None else relative.add_(noise)).clamp_(-1, 1)
    for _ in range(options.steps - 1):
        _, gradient, _ = _layer_gradient(eager, images, labels, layer, relative * budget)
        relative = (relative + eager.attack_step(gradient.float())).clamp_(-1, 1)
    return relative * budget


def feature_step(
    method: SCAAT, images: Tensor, labels: Tensor, n: int, layer: nn.Module, backward: Backward
) -> StepLosses:
    """As a step in the pixels: the clean backward pass gives the layer's gradient too.

    The first ``n`` of the images (B, C, H, W) are perturbed; labels are as the objective wants
    them.
    """
    eager, lam = _eager(method), method.options.lam
    with kept_output(layer) as kept:
        logits = eager.forward(images)
    clean = eager.objective.per_image(logits, labels).mean()
    backward(clean, False)
    logits, clean = logits.detach(), clean.detach()
    activation, slope = kept[-1].detach()[:n], kept[-1].grad
    kept.clear()
    # of the batch's mean loss: times B gives each image's own
    gradient = torch.zeros_like(activation) if slope is None else slope[:n] * len(images)
    change = feature_change(
        eager, images[:n], labels[:n], activation, gradient, logits[:n], layer
    )  # fmt: skip
    del activation, gradient, slope
    with moved_output(layer, change):
        robust = eager.robust_loss(logits[:n], images[:n], labels[:n]) * (n / len(images))
    backward(lam * robust, True)
    robust = robust.detach()
    return StepLosses(clean + lam * robust, clean, robust, logits)


def feature_loss(method: SCAAT, images: Tensor, labels: Tensor, n: int, layer: nn.Module) -> Tensor:
    """Differentiable total loss, a scalar, of images (B, C, H, W), for a loop of one's own.

    The first ``n`` of them are perturbed.
    """
    eager = _eager(method)
    first, theirs = images[:n], labels[:n]
    activation, gradient, before = _layer_gradient(eager, first, theirs, layer)
    change = feature_change(eager, first, theirs, activation, gradient, before, layer)
    logits = eager.forward(images)
    clean = eager.objective.per_image(logits, labels).mean()
    with moved_output(layer, change):
        robust = eager.robust_loss(logits[:n], images[:n], labels[:n]) * (n / len(images))
    return clean + method.options.lam * robust
