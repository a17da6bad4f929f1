"""BatchNorm where all patches of a bag have one stain.

In a step BatchNorm normalises by the patches at hand: a few bags of one stain each. The running
averages follow the last such steps, so that validation would depend on which slides came last,
and a model would be judged by other statistics than it was trained with. So the statistics are
taken anew after each epoch, from patches spread evenly over all training slides; predictions
always use these, and a bag of one stain moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pathology_scaat.scaat.batch_norm import batch_norms


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of every BatchNorm in training mode to those of given patches.

    Layers in evaluation mode are frozen parts of the network and keep theirs.

    Parameters
    ----------
    model : nn.Module
        Takes (N, 3, P, P) patches. Left in the mode it is in.
    batches : iterable of Tensor of shape (N, 3, P, P)
        Each mixed from many slides. Means and variances are averaged over the batches, weighed
        by their size (Wu and Johnson 2021, arXiv 2105.07576).
    """
    layers = [layer for layer in batch_norms(model) if layer.training]
    if not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    totals = [torch.zeros_like(b) for layer in layers for b in _statistics(layer)]
    n_seen = 0
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # the running statistics become those of the last batch
    for patches in batches:
        model(patches)
        n_seen += len(patches)
        current = [b for layer in layers for b in _statistics(layer)]
        for total, value in zip(totals, current, strict=True):
            total += value * len(patches)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for module, mode in modes:
        module.training = mode
    if n_seen:
        current = [b for layer in layers for b in _statistics(layer)]
        for total, value in zip(totals, current, strict=True):
            value.copy_(total / n_seen)


def _statistics(layer: _BatchNorm) -> tuple[Tensor, ...]:
    kept = (layer.running_mean, layer.running_var)
    return tuple(value for value in kept if value is not None)


def freeze_batch_norm(model: nn.Module) -> None:
    """Normalise by the running statistics, also in training mode."""
    for layer in batch_norms(model):
        layer.eval()
