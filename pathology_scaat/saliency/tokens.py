"""Maps at the network's own grid: within one of its cells a gradient shows a filter, not tissue.

Images are (N, C, H, W) float in [0, 1], ``classes`` (N,) int64: the class that is explained.

References
----------
Chefer et al. 2021 (attention-gradient rollout); Shrikumar et al. 2017 (gradient x input, here of
the patch embedding).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import gradients
from pathology_scaat.scaat.gradients import spatial_activation
from pathology_scaat.scaat.grid import Cell, network_cell, pooled, spread
from pathology_scaat.scaat.target import Output, target_score

if TYPE_CHECKING:
    from pathology_scaat.saliency.attribution import AttributionOptions


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _cell(model: nn.Module, images: Tensor) -> Cell:
    try:
        return network_cell(model, images)
    except UsageError:
        raise UsageError(
            "the method", "needs a network with a grid of its own; here it is the pixels",
            "choose 'gradient'",
        ) from None  # fmt: skip


def _gradient_size(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output
) -> tuple[Tensor, Tensor]:
    """|input gradient| summed over channels, (N, 1, H, W), and the logits."""
    signed, logits = gradients.input_gradient(
        model, images, lambda logits: target_score(logits, classes, output)
    )
    return signed.float().abs().sum(dim=1, keepdim=True), logits.float()


def gradient_grid_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Input gradient averaged over the cells of the network's own grid.

    Returns the map, (N, H, W), not negative, and the logits, (N, K).

    Raises
    ------
    UsageError
        If the network has no such grid.
    """
    size, logits = _gradient_size(model, images, classes, output)
    cell = _cell(model, images)
    return spread(pooled(size, cell), cell, _size(images))[:, 0], logits


def blurred(maps: Tensor, sd_px: tuple[float, float]) -> Tensor:
    """Gaussian smoothing, (N, 1, H, W), that keeps a constant map at the border."""
    for dim, sd in ((2, sd_px[0]), (3, sd_px[1])):
        reach = max(1, math.ceil(3 * sd))
        away = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
        kernel = torch.exp(-0.5 * (away / sd) ** 2)
        shape, pad = ((1, 1, -1, 1), (reach, 0)) if dim == 2 else ((1, 1, 1, -1), (0, reach))
        kernel = kernel.reshape(shape)
        weight = F.conv2d(torch.ones_like(maps[:1]), kernel, padding=pad)
        maps = F.conv2d(maps, kernel, padding=pad) / weight
    return maps


def gradient_blurred_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Input gradient smoothed by a Gaussian of half a cell of the network's own grid.

    Returns the map, (N, H, W), not negative, and the logits, (N, K).

    Raises
    ------
    UsageError
        If the network has no such grid.
    """
    size, logits = _gradient_size(model, images, classes, output)
    height, width = _cell(model, images)
    return blurred(size, (height / 2, width / 2))[:, 0], logits


def _embedding(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "patch_embed":
            found: nn.Module = module
            return found
    raise UsageError(
        "token-gradient-x-input", "finds no patch embedding in this network", "choose 'gradient'"
    )


def token_gradient_x_input_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Gradient times the patch embedding, summed over a token's features.

    Returns its absolute values over the tokens' pixels, (N, H, W), and the logits, (N, K).

    Raises
    ------
    UsageError
        If the network has no patch embedding, or its tokens are no square.
    """
    kept, slope, logits = gradients.activation_gradient(
        model, images, lambda logits: target_score(logits, classes, output), _embedding(model)
    )
    tokens = spatial_activation((kept * slope).float(), 0)
    if tokens is None:
        raise UsageError("token-gradient-x-input", "finds no square of tokens", "choose 'gradient'")
    return _enlarged(tokens.sum(dim=1, keepdim=True).abs(), images), logits.float()


def _enlarged(cells: Tensor, images: Tensor) -> Tensor:
    """Each cell's value over its pixels, (N, 1, h, w) to (N, H, W)."""
    return F.interpolate(cells, size=_size(images), mode="nearest")[:, 0]


class _Attentions(TorchFunctionMode):
    """Keeps the attention weights, (N, heads, T, T), of a forward pass, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._explicit(*args, **kwargs)
        if name == "multi_head_attention_forward":
            raise UsageError(
                "attention-rollout", "does not see into torch.nn.MultiheadAttention",
                "choose another method",
            )  # fmt: skip
        result = func(*args, **kwargs)
        if name == "softmax" and result.ndim == 4:
            self.kept.append(result)
        return result

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **more: Any,
    ) -> Tensor:  # fmt: skip
        if attn_mask is not None or is_causal or more.get("enable_gqa"):
            raise UsageError(
                "attention-rollout", "takes no masked attention", "choose another method"
            )
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        weights = ((q @ k.transpose(-2, -1)) * factor).softmax(dim=-1)
        self.kept.append(weights)
        return weights @ v


def _reads_class_token(model: nn.Module) -> bool:
    """Whether the head reads the class token; else it reads the mean of the patches' tokens.

    Raises
    ------
    UsageError
        If it reads something else, or does not say what.
    """
    pools = [getattr(module, "global_pool", None) for module in model.modules()]
    pool = next((p for p in pools if isinstance(p, str)), None)
    if pool not in ("token", "avg"):
        raise UsageError(
            "attention-rollout", "cannot find what this network's head reads of its tokens",
            "choose another method",
        )  # fmt: skip
    return pool == "token"


def attention_rollout_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """Attention-gradient rollout: what helps the class in attention weights, over all blocks.

    Returns the map, (N, H, W), not negative, and the logits, (N, K) (Chefer et al. 2021).

    Raises
    ------
    UsageError
        If the network has no attention among all its tokens, or its head reads something else.
    """
    eager = getattr(model, "_orig_mod", model)
    keeping = _Attentions()
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        with keeping:
            logits = eager(leaf)
        kept = keeping.kept
        if not kept:
            raise UsageError(
                "attention-rollout", "meets no attention in this network", "choose 'gradient'"
            )
        if any(w.ndim != 4 or w.shape[0] != len(images) or w.shape[2:] != kept[0].shape[2:]
               for w in kept):  # fmt: skip
            raise UsageError(
                "attention-rollout", "needs attention among all tokens in every block",
                "choose another method",
            )  # fmt: skip
        reads_class_token = _reads_class_token(eager)
        slopes = torch.autograd.grad(target_score(logits, classes, output).sum(), kept)
    n_tokens = kept[0].shape[-1]
    rolled = torch.eye(n_tokens, device=images.device).expand(len(images), -1, -1)
    for weights, slope in zip(kept, slopes, strict=True):
        helping = (weights.detach().float() * slope.float()).clamp_min(0).mean(dim=1)
        rolled = rolled + helping @ rolled
    # the grid is the network's own: of few tokens the number alone would not show how many lead
    cell = _cell(eager, images)
    rows_of, columns_of = images.shape[-2] // cell[0], images.shape[-1] // cell[1]
    prefix = n_tokens - rows_of * columns_of
    if prefix < int(reads_class_token):
        raise UsageError(
            "attention-rollout", f"finds {n_tokens} tokens for {rows_of} x {columns_of} cells",
            "choose another method",
        )  # fmt: skip
    # the mean: a token reaches itself without attention, each as much as any other: not counted
    own = 1 / (rows_of * columns_of)
    rows = rolled[:, 0] if reads_class_token else rolled[:, prefix:].mean(dim=1) - own
    cells = rows[:, prefix:].clamp_min(0).reshape(len(images), 1, rows_of, columns_of)
    return _enlarged(cells, images), logits.detach().float()
