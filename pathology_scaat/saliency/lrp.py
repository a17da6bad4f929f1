"""Layer-wise relevance propagation, for CNNs and (attention-aware) for vision transformers.

Relevance is carried as gradient x activation: each operation of the forward pass is given a
surrogate of the same value whose gradient is the rule. Sums, means, normalised inputs and residual
connections then come out right by themselves, whatever the network looks like, where libraries
that hook modules (zennit) duplicate relevance at every addition that they were not told of. The
operations are met as functions, so an activation that is no module is seen too; one that has no
rule here is refused by name, since a plain gradient through it would be no relevance.

Rules: the box of allowed pixels (z-box) at the first layer; gamma at convolutions and, less of it,
at the linear layers of transformers; plain proportions (LRP-0) elsewhere; identity at
activations; the deviation held fixed at layer and group norms; gates (sigmoids) held fixed.

Images are (N, C, H, W) float in [0, 1], ``classes`` (N,) int64: the class that is explained.

References
----------
Bach et al. 2015 (LRP); Montavon et al. 2017 (z-box) and 2019 (gamma); Achtibat et al. 2024
(AttnLRP: softmax by Taylor expansion, products shared equally); Ali et al. 2022 (attention held
fixed, which ``lrp`` does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.target import Output, target_score

GAMMA_CONVOLUTION = 0.25
"""How much more positive contributions count at convolutions (Montavon et al. 2019)."""
GAMMA_TOKENS = 0.05
"""The same at the linear layers of a transformer (Achtibat et al. 2024)."""
ROUNDING = 1e-3
"""Share of the relevance that may be lost on the way from the first layer to the pixels."""
ROUNDING_OF_BOX = 1e-5
"""Less than this share of the largest sum of parts, which are not negative, is rounding."""
NO_PIXEL = 1e-6
"""An input of the first layer that differs by less between black and white is padding."""


def _named(words: str) -> frozenset[str]:
    return frozenset(words.split())


_AS_THEY_ARE = _named(
    "add __add__ __radd__ __iadd__ add_ sub __sub__ __rsub__ __isub__ sub_ rsub neg __neg__ mean "
    "sum reshape reshape_as view view_as flatten ravel permute transpose swapaxes t contiguous "
    "clone cat concat concatenate stack chunk split tensor_split unbind unflatten unsqueeze "
    "unsqueeze_ squeeze squeeze_ expand expand_as repeat repeat_interleave tile roll flip narrow "
    "select __getitem__ __get__ pad unfold pixel_shuffle pixel_unshuffle max_pool1d max_pool2d "
    "avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d "
    "adaptive_max_pool2d max_pool2d_with_indices adaptive_max_pool2d_with_indices amax "
    "interpolate dropout dropout1d dropout2d feature_dropout alpha_dropout to type type_as float "
    "double half bfloat16 relu relu_ batch_norm requires_grad_"
)
"""Linear in what they are given, or choosing among it: gradient x activation is their rule."""
_ELEMENTWISE = _named(
    "gelu silu mish elu celu selu leaky_relu relu6 hardtanh hardswish softplus prelu tanh"
)
_GATES = _named("sigmoid hardsigmoid")
_PRODUCTS = _named("mul multiply __mul__ __rmul__ __imul__")
_MATRIX_PRODUCTS = _named("matmul __matmul__ __rmatmul__ bmm")
_QUOTIENTS = _named("div divide true_divide __truediv__ __itruediv__ div_")
_CONVOLUTIONS = _named("conv1d conv2d conv3d")


def _as_if(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, with the gradient of the surrogate."""
    return value.detach() + (surrogate - surrogate.detach())


def _slower(values: Tensor, share: float) -> Tensor:
    """The values, with a share of their gradient."""
    return _as_if(values, values * share)


def _stable(values: Tensor) -> Tensor:
    """The values, none of them nearer to zero than 1e-9."""
    return torch.where(values >= 0, values.clamp_min(1e-9), values.clamp_max(-1e-9))


def _is_free(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _depends(result: object) -> bool:
    """Whether a result hangs on the pixels."""
    if isinstance(result, tuple | list):
        return any(_depends(part) for part in result)
    return _is_free(result)


class _FoundInput(Exception):  # noqa: N818 (no error)
    def __init__(self, values: Tensor) -> None:
        self.values = values


class _UntilFirstLayer(TorchFunctionMode):
    """Ends a forward pass at the first layer that has weights, with what it was given."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _CONVOLUTIONS | {"linear"}:
            raise _FoundInput(args[0].detach())
        return func(*args, **(kwargs or {}))


def _first_input(model: nn.Module, images: Tensor) -> Tensor:
    try:
        with torch.no_grad(), _UntilFirstLayer():
            model(images)
    except _FoundInput as found:
        return found.values
    raise UsageError(
        "lrp", "meets no convolution or linear layer in this network", "choose another method"
    )


class _Rules(TorchFunctionMode):
    """The rules, put in place of the operations of a forward pass.

    Parameters
    ----------
    black, white : Tensor, (1, ...)
        Inputs of the first layer for such images: the ends of what it may be given.
    through_attention : bool
        Whether relevance flows to queries and keys as well, or by the values alone.
    """

    def __init__(self, black: Tensor, white: Tensor, through_attention: bool) -> None:
        super().__init__()
        self.low, self.high = torch.minimum(black, white), torch.maximum(black, white)
        self.scale = white - black
        self.through_attention = through_attention
        self.has_attention = False
        self.box: tuple[Tensor, Tensor, Tensor] | None = None
        self.first_input: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name in _CONVOLUTIONS or name == "linear":
            return self._weighted(func, name, *args, **kwargs)
        if name == "scaled_dot_product_attention":
            return self._attention(func, *args, **kwargs)
        if name == "multi_head_attention_forward":
            raise UsageError(
                "lrp", "does not see into torch.nn.MultiheadAttention", "choose another method"
            )
        if name in ("layer_norm", "group_norm"):
            return _normalised(name, *args, **kwargs)
        result = func(*args, **kwargs)
        if not _depends(result):
            return result
        free = [a for a in (*args, *kwargs.values()) if _is_free(a)]
        if name == "softmax":
            self.has_attention = True
            return result if self.through_attention else result.detach()
        if name in _ELEMENTWISE:
            return _as_if(result, args[0] * (result / _stable(args[0])).detach())
        if name in _GATES:
            return result.detach()
        if name in _PRODUCTS | _MATRIX_PRODUCTS:
            return _slower(result, 0.5) if len(free) > 1 else result
        if name == "mul_" and len(free) == 1:
            return result
        if name in _QUOTIENTS and len(free) == 1 and args and _is_free(args[0]):
            return result
        if name in _AS_THEY_ARE:
            return result
        raise UsageError(
            "lrp", f"has no rule for '{name}', which this network uses", "choose another method"
        )

    def _weighted(
        self,
        func: Callable[..., Any],
        name: str,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **more: Any,
    ) -> Tensor:
        def apply(values: Tensor, weights: Tensor) -> Tensor:
            made: Tensor = func(values, weights, None, *rest, **more)
            return made

        result: Tensor = func(x, weight, bias, *rest, **more)
        if not result.requires_grad:
            return result
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        if self.box is None:
            self.first_input = x
            self.box = tuple(  # type: ignore[assignment]
                v.detach().expand_as(x).clone().requires_grad_() for v in (x, self.low, self.high)
            )
            values, low, high = self.box  # type: ignore[misc]
            parts = apply(values, weight) - apply(low, positive) - apply(high, negative)
            # what only constant padding reaches is kept by it; its parts are rounding alone
            counts = parts.detach() > ROUNDING_OF_BOX * parts.detach().amax()
            share = torch.where(counts, result / _stable(parts), 0.0)
            return _as_if(result, parts * share.detach())
        if name == "linear":
            gamma = GAMMA_TOKENS if self.has_attention else 0.0
        else:
            gamma = GAMMA_CONVOLUTION
        if gamma == 0:
            return result
        more_positive, more_negative = weight + gamma * positive, weight + gamma * negative
        above, below = x.clamp(min=0), x.clamp(max=0)
        up, down = apply(above, more_positive), apply(above, more_negative)
        if bool(below.any()):  # not behind a ReLU
            up = up + apply(below, more_negative)
            down = down + apply(below, more_positive)
        if bias is not None:
            shape = (-1,) if name == "linear" else (-1, *[1] * (weight.ndim - 2))
            up = up + (bias + gamma * bias.clamp(min=0)).reshape(shape)
            down = down + (bias + gamma * bias.clamp(max=0)).reshape(shape)
        parts = torch.where(result >= 0, up, down)
        return _as_if(result, parts * (result / _stable(parts)).detach())

    def _attention(
        self, func: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any
    ) -> Tensor:
        self.has_attention = True
        if not self.through_attention:
            return func(q.detach(), k.detach(), v, *rest, **more)  # type: ignore[no-any-return]
        # two products, each shared equally between its factors: weights x values, q x k
        return func(  # type: ignore[no-any-return]
            _slower(q, 0.25), _slower(k, 0.25), _slower(v, 0.5), *rest, **more
        )

    def relevance(self, score: Tensor, images: Tensor) -> Tensor:
        """Relevance of each pixel and channel, (N, C, H, W): gradients x inputs of the box."""
        if self.box is None or self.first_input is None:
            raise UsageError(
                "lrp", "meets no layer with weights that sees the pixels", "choose another method"
            )
        *slopes, beside = torch.autograd.grad(
            score.sum(), [*self.box, images], allow_unused=True, retain_graph=True
        )
        if beside is not None and bool(beside.any()):
            raise UsageError(
                "lrp", "needs one first layer; this network has several", "choose another method"
            )
        found = sum(
            value.detach() * slope
            for value, slope in zip(self.box, slopes, strict=True)
            if slope is not None
        )
        if not isinstance(found, Tensor):
            return torch.zeros_like(images)
        return _on_pixels(found, self.scale, self.first_input, images)


def _normalised(name: str, x: Tensor, *args: Any, **more: Any) -> Tensor:
    """Layer or group norm with its deviation held fixed; linear in what is left."""
    if name == "layer_norm":
        names = ("normalized_shape", "weight", "bias", "eps")
        given = {**dict(zip(names, args, strict=False)), **more}
        dims = tuple(range(-len(given["normalized_shape"]), 0))
        centred = x - x.mean(dims, keepdim=True)
        spread = (centred.square().mean(dims, keepdim=True) + given.get("eps", 1e-5)).sqrt()
        made = centred / spread.detach()
        weight, bias = given.get("weight"), given.get("bias")
    else:
        names = ("num_groups", "weight", "bias", "eps")
        given = {**dict(zip(names, args, strict=False)), **more}
        grouped = x.reshape(x.shape[0], given["num_groups"], -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        spread = (centred.square().mean(2, keepdim=True) + given.get("eps", 1e-5)).sqrt()
        made = (centred / spread.detach()).reshape(x.shape)
        shape = (1, -1, *[1] * (x.ndim - 2))
        weight, bias = (
            None if p is None else p.reshape(shape)
            for p in (given.get("weight"), given.get("bias"))
        )
    made = made if weight is None else made * weight
    shifted: Tensor = made if bias is None else made + bias
    return shifted


def _on_pixels(relevance: Tensor, scale: Tensor, first_input: Tensor, images: Tensor) -> Tensor:
    """Relevance of the first layer's inputs, laid back onto the pixels they were made of.

    An input is a pixel that was scaled, moved, padded with or taken for another, or a mean of
    pixels that were resized, which then share by their weights in it. ``scale`` is the sum of
    an input's slopes by the pixels.
    """
    if first_input is images:
        return relevance
    has_pixels = scale.abs() > NO_PIXEL
    shares = torch.where(has_pixels, relevance / torch.where(has_pixels, scale, 1.0), 0.0)
    (on_pixels,) = torch.autograd.grad(first_input, [images], shares, retain_graph=True)
    lost = (on_pixels.flatten(1).sum(1) - relevance.flatten(1).sum(1)).abs()
    if bool((lost > ROUNDING * relevance.flatten(1).abs().sum(1) + 1e-12).any()):
        raise UsageError(
            "lrp", "cannot follow what this network does to the pixels before its first layer",
            "choose another method",
        )  # fmt: skip
    return on_pixels


def relevance(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    output: Output = "margin",
    *,
    through_attention: bool = False,
) -> tuple[Tensor, Tensor]:
    """Signed relevance of pixels and channels, (N, C, H, W), and the logits (N, K).

    The sum over an image is the score that is explained, less what biases (and, through
    attention, the softmax) keep.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode, frozen.
    images : Tensor, (N, C, H, W), in 0..1
    classes : Tensor, (N,), int64
    output : {"margin", "margin-best", "logit"}
    through_attention : bool
        AttnLRP; else attention weights are held fixed.

    Raises
    ------
    UsageError
        If the network is a program, or uses something that no rule is known for.
    """
    eager = getattr(model, "_orig_mod", model)
    if any(isinstance(m, torch.jit.ScriptModule) for m in eager.modules()):
        raise UsageError("lrp", "does not see into a TorchScript program", "choose another method")
    ends = [_first_input(eager, torch.full_like(images[:1], value)) for value in (0.0, 1.0)]
    rules = _Rules(ends[0], ends[1], through_attention)
    leaf = images.detach().requires_grad_(True)
    with torch.enable_grad():
        with rules:
            logits = eager(leaf)
        if through_attention and not rules.has_attention:
            raise UsageError("attn-lrp", "meets no attention in this network", "choose 'lrp'")
        found = rules.relevance(target_score(logits, classes, output), leaf)
    return found.detach(), logits.detach()


def _map(signed: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    # channels of one pixel are summed with their signs: relevance is conserved by the pixel
    return signed.float().sum(dim=1).abs(), logits.float()


def lrp_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: Any
) -> tuple[Tensor, Tensor]:
    """Layer-wise relevance propagation; attention weights held fixed.

    Returns the absolute relevance of each pixel, (N, H, W), and the logits, (N, K).

    Raises
    ------
    UsageError
        If the network uses something that no rule is known for.
    """
    return _map(*relevance(model, images, classes, output))


def attn_lrp_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: Any
) -> tuple[Tensor, Tensor]:
    """Attention-aware layer-wise relevance propagation (AttnLRP).

    Returns the absolute relevance of each pixel, (N, H, W), and the logits, (N, K).

    Raises
    ------
    UsageError
        If the network has no attention, or uses something that no rule is known for.
    """
    return _map(*relevance(model, images, classes, output, through_attention=True))
