"""Saliency sources other than the shared gradient; each costs passes of its own."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.batch_norm import batch_norm_policy, frozen_parameters
from pathology_scaat.scaat.method import Method


def smoothgrad(
    method: Method, images: Tensor, labels: Tensor, samples: int, sigma: float
) -> Tensor:
    """Mean input gradient over Gaussian-noised copies (Smilkov et al. 2017), (B, C, H, W).

    ``sigma`` is the noise's standard deviation in [0, 1] image units.
    """
    generator = method.generator(images.device)
    total = torch.zeros_like(images)
    for _ in range(samples):
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        total += method.input_gradient((images + sigma * noise).clamp(0, 1), labels)
    return total / samples


def last_convolution(model: nn.Module) -> nn.Conv2d:
    """The convolution whose output Grad-CAM weighs (for a ViT, its patch embedding)."""
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not found:
        raise UsageError("saliency", "Grad-CAM needs a convolution", "choose 'gradient'")
    return found[-1]


def grad_cam(method: Method, images: Tensor, labels: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) at the last convolution, (B, 1, H, W), not negative."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output)

    eager = copy.copy(method)  # a compiled network runs no hook that was not there to compile
    eager.model = getattr(method.model, "_orig_mod", method.model)
    handle = last_convolution(eager.model).register_forward_hook(keep)
    try:
        with (
            torch.enable_grad(),
            frozen_parameters(method.model),
            batch_norm_policy(method.model, "clean"),
        ):
            x = images.detach().requires_grad_()
            logits = eager.forward(x)
            score = method.objective.target_logit(logits, labels).sum()
            (gradient,) = torch.autograd.grad(score, kept[-1])
    finally:
        handle.remove()
    features = kept[-1].detach().float()
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    cam = (weights * features).sum(dim=1, keepdim=True).relu()
    return F.interpolate(cam, size=images.shape[-2:], mode="bilinear", align_corners=False)


class EmaTeacher(Method):
    """A slow copy of the model whose gradient ranks the pixels.

    The mask then follows what was salient over many steps, which damps the lock-in of whatever
    was salient first.
    """

    def __init__(self, student: Method, decay: float) -> None:
        super().__init__(
            copy.deepcopy(student.model),
            objective=student.objective,
            autocast_dtype=student.autocast_dtype,
        )
        self.model.requires_grad_(False).eval()
        self._student = student
        self._decay = decay

    @torch.no_grad()
    def follow(self) -> None:
        """Move the copy a little towards the student."""
        source = self._student.model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(source[name].to(value.dtype), 1 - self._decay)
            else:
                value.copy_(source[name])

    def training_step(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        raise UsageError("ema-teacher", "is not trained by itself", "train its student")
