"""A trained model made ready for explaining: fewer and cheaper operations, the same function.

In eval mode BatchNorm is a scale and a shift a channel, which the convolution before it can do
at no cost; images lie in memory channel by channel last, as convolutions want them; and on GPUs
the weights are in bfloat16, with normalisation, scores and maps in float32. Folding changes
float32 by its rounding alone. What bfloat16 changes is measured on trained models in
``benchmarks/precision.py``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pathology_scaat.saliency.config import Precision
from pathology_scaat.training.backbones import Classifier
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bundle import ModelBundle, load_bundle

logger = logging.getLogger(__name__)

AGREEMENT = 1e-3
"""How far folded scores may be from the model's own, of the largest: float32's rounding is 1e-6."""


CONVOLUTIONS = ("Conv2dSame", "EdgeRepeatingConv2d")
"""Subclasses of torch's (timm's, and our own) that only pad otherwise; others may do more to their
weights than a convolution does."""


class _Tracer(fx.Tracer):
    """Keeps convolutions and normalisations whole, also those that are no part of torch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm | nn.Conv2d) or super().is_leaf_module(
            m, module_qualified_name
        )


def _foldable(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Module, str]]:
    """Convolutions whose output goes to one normalisation and nowhere else, and its name."""
    graph = _Tracer().trace(network)
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    modules = dict(network.named_modules())
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], _BatchNorm):
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        convolution = modules[str(before.target)]
        alone = len(before.users) == 1 and calls[str(before.target)] == calls[str(node.target)] == 1
        plain = type(convolution) is nn.Conv2d or type(convolution).__name__ in CONVOLUTIONS
        if alone and plain and isinstance(convolution, nn.Conv2d):
            yield convolution, modules[str(node.target)], str(node.target)


def _after(norm: nn.Module) -> nn.Module | None:
    """What a normalisation does besides; None where that is not known."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if type(norm).__name__ == "BatchNormAct2d" and isinstance(act, nn.Module):  # timm's
        return act if drop is None or isinstance(drop, nn.Identity) else None
    return None


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """A network in eval mode whose BatchNorms are part of the convolutions before them.

    Parameters
    ----------
    network : nn.Module
        Left as it is.
    example : Tensor, (n, 3, H, W)
        Normalised images, float32, on the network's device: on these both must agree.

    Returns
    -------
    nn.Module
        A changed copy; the network itself where nothing can be folded, where its forward pass
        cannot be traced, or where the copy does not agree.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    changed = copy.deepcopy(network)
    try:
        pairs = list(_foldable(changed))
    except Exception as error:  # whatever a network's own code says to being traced
        logger.info("BatchNorm is not folded: %s", type(error).__name__)
        return network
    for convolution, norm, name in pairs:
        rest = _after(norm)
        if rest is None or norm.running_mean is None or norm.running_var is None:
            continue
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,  # type: ignore[arg-type]
            norm.running_var,  # type: ignore[arg-type]
            float(norm.eps),  # type: ignore[arg-type]
            norm.weight,  # type: ignore[arg-type]
            norm.bias,  # type: ignore[arg-type]
        )
        convolution.weight, convolution.bias = weight, bias
        changed.set_submodule(name, rest)
    changed.eval().requires_grad_(False)
    with torch.no_grad():
        expected, found = network(example).float(), changed(example).float()
    largest = float(expected.abs().max())
    if not torch.allclose(found, expected, rtol=0, atol=AGREEMENT * max(largest, 1e-6)):
        logger.warning("BatchNorm is not folded: the result would differ")
        return network
    return changed


def _in_bfloat16(network: nn.Module) -> nn.Module:
    """A copy with weights in bfloat16 that takes and gives float32."""
    changed = copy.deepcopy(network).to(torch.bfloat16)
    changed.register_forward_pre_hook(lambda _module, inputs: (inputs[0].to(torch.bfloat16),))
    changed.register_forward_hook(lambda _module, _inputs, result: result.float())
    return changed


def compiled(network: nn.Module, example: Tensor) -> nn.Module:
    """Compile, in place, what a network does before its head.

    The head stays as it is: what goes into it is looked at while patches are explained
    (:func:`~pathology_scaat.training.feature_reference.penultimate`).

    Parameters
    ----------
    network : nn.Module
        With ``forward_features``, as timm's have; any other is given back as it is.
    example : Tensor, (n, 3, H, W)
        Normalised images of the size and number of every batch to come: for others the network
        would be compiled again.

    Notes
    -----
    Where the compiler does not work (none is installed, or it does not know an operation), a
    warning says so and the network is left as it was.
    """
    features = getattr(network, "forward_features", None)
    if features is None:
        logger.warning("Not compiled: the network has no forward_features")
        return network
    # Set as an attribute of this object: what its class defines stays as it is.
    object.__setattr__(network, "forward_features", torch.compile(features, dynamic=False))
    try:
        # Also the backward pass is compiled, at its first use.
        images = example.detach().requires_grad_(True)
        torch.autograd.grad(network(images).float().sum(), [images])
    except Exception as error:  # whatever compilers say
        logger.warning("Not compiled: %s", type(error).__name__)
        object.__delattr__(network, "forward_features")
    return network


def _ready(
    model: Classifier, patch_size_px: int, precision: Precision, compile_for: int = 0
) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 3, patch_size_px, patch_size_px), generator=generator)
    example = (images.to(model.mean.device) - model.mean) / model.std
    backbone = folded(model.backbone, example)
    if precision == "bfloat16":
        backbone = _in_bfloat16(backbone)
    if backbone is model.backbone:
        backbone = copy.deepcopy(backbone)
    ready = Classifier(
        backbone, tuple(model.mean.flatten().tolist()), tuple(model.std.flatten().tolist())
    )
    ready = ready.to(model.mean.device).eval().requires_grad_(False)
    if model.mean.device.type in ("cpu", "cuda"):
        ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile_for:
        images = torch.rand((compile_for, 3, patch_size_px, patch_size_px), generator=generator)
        images = images.to(model.mean.device, memory_format=torch.channels_last)
        compiled(ready.backbone, (images - model.mean) / model.std)
    return ready


def ready_to_explain(
    model: nn.Module, patch_size_px: int, precision: Precision, compile_for: int = 0
) -> nn.Module:
    """The same function as a model, made to be computed fast; the model is left as it is.

    Parameters
    ----------
    model : nn.Module
        A :class:`Classifier` or a model for bags; any other is given back.
    patch_size_px : int
    precision : str
        ``float32``, or ``bfloat16`` for the weights of the backbone.
    compile_for : int
        Compile the network of a :class:`Classifier` for batches of so many patches; 0: do not.
    """
    if isinstance(model, BagModel):
        return BagModel(_ready(model.encoder, patch_size_px, precision), model.head)
    if isinstance(model, Classifier):
        return _ready(model, patch_size_px, precision, compile_for)
    return model


@lru_cache(maxsize=1)
def kept_for_explaining(
    path: Path, fingerprint: str, device: str, precision: Precision, compile_for: int = 0
) -> ModelBundle:
    """Load a model bundle for explaining; the one that was last asked for stays in memory.

    A process explains many slides with one model, which is loaded once.

    Parameters
    ----------
    path : Path
        Folder of the bundle.
    fingerprint : str
        Of its present configuration: a bundle that was replaced meanwhile is loaded again.
    device : str
        Such as ``cpu`` or ``cuda:0``.
    precision : str
        ``float32`` or ``bfloat16``.
    compile_for : int
        Patches per batch that the network is compiled for; 0 does not compile.

    Raises
    ------
    BundleError
        If the bundle is damaged or of another version.
    """
    bundle = load_bundle(path, device=device)
    side = bundle.config.patch_size_px
    return replace(bundle, model=ready_to_explain(bundle.model, side, precision, compile_for))


def chosen_precision(asked: str) -> Precision:
    """What ``auto`` stands for: float32 everywhere.

    bfloat16 is several times as fast on a GPU, but how far it is from float32 depends on the
    network: probabilities of an EfficientNet differed by .02. Who wants it asks for it.
    """
    return "bfloat16" if asked == "bfloat16" else "float32"
