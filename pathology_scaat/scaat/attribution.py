"""Saliency sources other than the shared gradient; each costs passes of its own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import gradients
from pathology_scaat.scaat.batch_norm import batch_norm_policy, frozen_parameters
from pathology_scaat.scaat.method import Method, StepLosses


def smoothgrad(
    method: Method, images: Tensor, labels: Tensor, samples: int, sigma: float
) -> Tensor:
    """Mean input gradient over Gaussian-noised copies (Smilkov et al. 2017), (B, C, H, W).

    Images are (B, C, H, W) in [0, 1], labels as the objective wants them; ``sigma`` is the noise's
    standard deviation in image units.
    """
    generator = method.generator(images.device)

    def noise() -> Tensor:
        return torch.randn(images.shape, generator=generator, device=images.device)

    return gradients.smoothgrad(
        lambda noisy: method.input_gradient(noisy, labels), images, noise,
        n_samples=samples, noise_std=sigma, within_range=True,
    )  # fmt: skip


def last_convolution(model: nn.Module) -> nn.Conv2d:
    """The convolution whose output Grad-CAM weighs (for a ViT, its patch embedding).

    Raises
    ------
    UsageError
        If the network has none.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not found:
        raise UsageError("saliency", "Grad-CAM needs a convolution", "choose 'gradient'")
    return found[-1]


def grad_cam(method: Method, images: Tensor, labels: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) at the last convolution, (B, 1, H, W), not negative.

    Images are (B, C, H, W) in [0, 1], labels as the objective wants them.
    """
    eager = copy.copy(method)  # a compiled network runs no hook that was not there to compile
    eager.model = getattr(method.model, "_orig_mod", method.model)
    with frozen_parameters(method.model), batch_norm_policy(method.model, "clean"):
        activation, slope, _ = gradients.activation_gradient(
            eager.forward, images,
            lambda logits: method.objective.target_logit(logits, labels),
            last_convolution(eager.model),
        )  # fmt: skip
    height, width = images.shape[-2:]
    return gradients.class_activation_map(activation, slope, (height, width))[:, None]


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

    def _step(self, *args: object, **kwargs: object) -> StepLosses:
        raise UsageError("ema-teacher", "is not trained by itself", "train its student")
