"""Temporary module states: which statistics a pass uses and which parameters it differentiates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All BatchNorm layers of a model, timm's fused ones included."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def batch_norm_policy(model: nn.Module, policy: str) -> Iterator[None]:
    """Run a pass with BatchNorm as ``clean``, ``shared`` or ``frozen`` says.

    ``clean``: normalise by the batch but leave the running statistics alone. Turning
    ``track_running_stats`` off in training mode does exactly that; momentum 0 would still count
    the batch. ``frozen``: normalise by the running statistics. ``shared``: nothing is changed.
    """
    layers = [] if policy == "shared" else [b for b in batch_norms(model) if b.training]
    tracked = [layer.track_running_stats for layer in layers]
    for layer in layers:
        if policy == "frozen" and layer.running_mean is not None:
            layer.training = False
        else:
            layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, track in zip(layers, tracked, strict=True):
            layer.training = True
            layer.track_running_stats = track


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Differentiate by the input only: no parameter gradient is computed, also when compiled."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
