"""Pixel attribution of a classifier's decision: one call, several methods, torch tensors.

The value of a pixel is the absolute attribution summed over the colour channels (relevance is
summed with its signs first). Nothing is normalised here: maps of two patches under the same model
can be compared and blended.

Images are (N, C, H, W) float in [0, 1], ``classes`` (N,) int64: the class that is explained.

References
----------
Simonyan et al. 2014 (gradient); Shrikumar et al. 2017 (gradient x input); Smilkov et al. 2017
(SmoothGrad); Sundararajan et al. 2017 (Integrated Gradients, computed by Captum);
Selvaraju et al. 2017 (Grad-CAM); Chattopadhyay et al. 2018 (Grad-CAM++).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.saliency.cam import grad_cam
from pathology_scaat.scaat import gradients
from pathology_scaat.scaat.noise import ImageNoise, image_noise
from pathology_scaat.scaat.target import Output, Target, evaluating, resolve_target, target_score


@dataclass(frozen=True)
class AttributionOptions:
    """Options of the attribution methods; each uses those that concern it.

    Attributes
    ----------
    n_samples : int
        Noise samples of SmoothGrad, steps of Integrated Gradients.
    noise_std : float
        Standard deviation of noise in pixel units of 0..1.
    noise : ImageNoise
        Source of noise, of each image's own.
    baseline : Tensor or None
        Start of Integrated Gradients, in 0..1: (N, C, H, W), or what broadcasts to it; white if
        None.
    layer : nn.Module or None
        Layer of Grad-CAM and ADVISE; the last one with a spatial output if None.
    n_masks : int
        Random masks of RISE.
    square_px : int
        Side of what occlusion covers, and of the cells of RISE's masks.
    seed : int
        Of RISE's masks.
    """

    n_samples: int
    noise_std: float
    noise: ImageNoise
    baseline: Tensor | None = None
    layer: nn.Module | None = None
    n_masks: int = 400
    square_px: int = 8
    seed: int = 0


def input_gradient(
    model: nn.Module, images: Tensor, target: Tensor, output: Output = "margin"
) -> tuple[Tensor, Tensor]:
    """Signed gradient of the score by the pixels, (N, C, H, W), and the logits (N, K).

    No weight gradient is computed and none is touched. Call it with the model in eval mode:
    batch statistics would mix the images.
    """
    return gradients.input_gradient(
        model, images, lambda logits: target_score(logits, target, output)
    )


def _smoothgrad(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    output: Output,
    n_samples: int,
    noise_std: float,
    noise: ImageNoise,
) -> tuple[Tensor, Tensor]:
    mean = gradients.smoothgrad(
        lambda noisy: input_gradient(model, noisy, target, output)[0],
        images,
        lambda: noise.normal(images),
        n_samples=n_samples,
        noise_std=noise_std,
    )
    with torch.no_grad():
        logits = model(images)
    return mean, logits


def _integrated_gradients(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    output: Output,
    n_samples: int,
    baseline: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from captum.attr import IntegratedGradients

    def score(inputs: Tensor, classes: Tensor) -> Tensor:
        return target_score(model(inputs), classes, output)

    start = torch.ones_like(images) if baseline is None else baseline.expand_as(images).to(images)
    with torch.enable_grad():
        result = IntegratedGradients(score).attribute(
            images.detach(),
            baselines=start,
            additional_forward_args=(target,),
            n_steps=n_samples,
            internal_batch_size=images.shape[0],
        )
    with torch.no_grad():
        logits = model(images)
    return result.detach(), logits


def _size(signed: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute attribution summed over the channels, (N, H, W), and the logits."""
    with torch.no_grad():
        return gradients.sum_of_channels(signed.float().abs()), logits.float()


def gradient_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Absolute input gradient, summed over channels: (N, H, W), and the logits (N, K)."""
    return _size(*input_gradient(model, images, classes, output))


def gradient_x_input_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Absolute gradient times input, summed over channels: (N, H, W), and the logits (N, K)."""
    signed, logits = input_gradient(model, images, classes, output)
    return _size(signed * images, logits)


def smoothgrad_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """SmoothGrad: the mean input gradient over noisy copies of each image.

    Returns its absolute values summed over channels, (N, H, W), and the logits, (N, K).
    """
    return _size(
        *_smoothgrad(
            model, images, classes, output, options.n_samples, options.noise_std, options.noise
        )
    )


def integrated_gradients_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Integrated Gradients from ``options.baseline`` (white if None).

    Returns absolute values summed over channels, (N, H, W), and the logits, (N, K).
    """
    return _size(
        *_integrated_gradients(model, images, classes, output, options.n_samples, options.baseline)
    )


def grad_cam_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Grad-CAM at ``options.layer``: (N, H, W), not negative, and the logits (N, K)."""
    return grad_cam(model, images, classes, output, layer=options.layer, plus_plus=False)


def grad_cam_plus_plus_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Grad-CAM++ at ``options.layer``: (N, H, W), not negative, and the logits (N, K)."""
    return grad_cam(model, images, classes, output, layer=options.layer, plus_plus=True)


def attribute_with_logits(
    model: nn.Module,
    images: Tensor,
    target: Target,
    method: str = "gradient",
    output: Output = "margin",
    *,
    n_samples: int = 16,
    noise_std: float = 0.1,
    baseline: Tensor | None = None,
    layer: nn.Module | None = None,
    n_masks: int = 400,
    square_px: int = 8,
    seed: int = 0,
    index: Tensor | Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`attribution` (N, H, W) together with the logits (N, K) that the same pass computed.

    Parameters are those of :func:`attribution`.

    Raises
    ------
    UsageError
        For an unknown method, output or target, images of another shape, or a number out of range.
    """
    attribute = ATTRIBUTIONS.load(method, "method")
    if images.ndim != 4 or not images.is_floating_point():
        raise UsageError(
            "images", f"are {tuple(images.shape)} {images.dtype}", "give float N, C, H, W in 0..1"
        )
    if n_samples < 1:
        raise UsageError("n_samples", f"is {n_samples}", "give 1 or more")
    for name, value in (("n_masks", n_masks), ("square_px", square_px)):
        if value < 2:
            raise UsageError(name, f"is {value}", "give 2 or more")
    with evaluating(model):
        classes = resolve_target(model, images, target)
        noise = image_noise(seed, index, len(images))
        options = AttributionOptions(
            n_samples, noise_std, noise, baseline, layer, n_masks, square_px, seed
        )
        found: tuple[Tensor, Tensor] = attribute(model, images, classes, output, options)
    return found


def attribution(
    model: nn.Module,
    images: Tensor,
    target: Target,
    method: str = "gradient",
    output: Output = "margin",
    *,
    n_samples: int = 16,
    noise_std: float = 0.1,
    baseline: Tensor | None = None,
    layer: nn.Module | None = None,
    n_masks: int = 400,
    square_px: int = 8,
    seed: int = 0,
    index: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Absolute attribution of a class's score to each pixel.

    Parameters
    ----------
    model : nn.Module
        (N, C, H, W) in 0..1 to logits (N, K), normalisation inside; run in eval mode here.
    images : Tensor, (N, C, H, W), float
        On the model's device.
    target : int, Tensor (N,) or "predicted"
        The class that is explained.
    method : str
        A name of :data:`~pathology_scaat.saliency.attributions.ATTRIBUTIONS`; ``gradient`` costs
        one forward and one input backward.
    output : {"margin", "margin-best", "logit"}
        See :func:`target_score`.
    n_samples : int
        Noise samples of SmoothGrad, steps of Integrated Gradients.
    noise_std : float
        Standard deviation of SmoothGrad's noise in pixel units of 0..1.
    baseline : Tensor, optional
        Start of Integrated Gradients, broadcast to the images. Default white: the glass of a
        slide, where black would be ink or a fold.
    layer : nn.Module, optional
        Layer of Grad-CAM and ADVISE; by default the last one with a spatial output.
    n_masks : int
        Random masks of RISE; each costs a forward pass.
    square_px : int
        Side of the squares that occlusion covers, and of the cells of RISE's masks.
    seed : int
        Of SmoothGrad's noise and RISE's masks.
    index : sequence of int or Tensor, (N,), optional
        Number of each image, which its noise is drawn by, so that a map does not depend on the
        batch that its image comes in. By default the index in this batch.

    Returns
    -------
    Tensor, (N, H, W), float32, >= 0
        Absolute attribution, summed over channels.

    Raises
    ------
    UsageError
        For an unknown method, output or target, or images of another shape.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
    >>> attribution(model, torch.rand(5, 3, 2, 2), target=1).shape
    torch.Size([5, 2, 2])
    """
    maps, _ = attribute_with_logits(
        model,
        images,
        target,
        method,
        output,
        n_samples=n_samples,
        noise_std=noise_std,
        baseline=baseline,
        layer=layer,
        n_masks=n_masks,
        square_px=square_px,
        seed=seed,
        index=index,
    )
    return maps
