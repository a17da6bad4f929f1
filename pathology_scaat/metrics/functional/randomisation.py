"""Does a map depend on what the model has learned? (Adebayo et al. 2018)"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pathology_scaat.metrics.functional.robustness import spearman


def _weighted(model: nn.Module) -> list[nn.Module]:
    return [
        m
        for m in model.modules()
        if any(True for _ in m.parameters(recurse=False)) and not list(m.children())
    ]


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Shuffle each weight tensor of a module: what is kept is its distribution."""
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            flat = parameter.detach().flatten()
            order = torch.randperm(flat.numel(), generator=generator).to(flat.device)
            parameter.copy_(flat[order].view_as(parameter))


def random_twin(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the model with every weight tensor shuffled: the random-weights baseline."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for module in _weighted(twin):
        randomise(module, generator)
    return twin


def cascade(model: nn.Module, n_steps: int = 4, seed: int = 0) -> Iterator[tuple[float, nn.Module]]:
    """Copies of a model randomised from the output down: (share of layers, model) each step."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = _weighted(twin)[::-1]
    done = 0
    for step in range(1, n_steps + 1):
        wanted = round(len(layers) * step / n_steps)
        for module in layers[done:wanted]:
            randomise(module, generator)
        done = wanted
        yield wanted / max(len(layers), 1), twin


def cascade_similarity(
    model: nn.Module,
    images: Tensor,
    explain: Callable[[nn.Module, Tensor], Tensor],
    n_steps: int = 4,
    seed: int = 0,
) -> list[tuple[float, Tensor]]:
    """Rank correlation (N,) of the maps with those of the cascade: low is right.

    A method whose maps survive random weights shows the image, not the model.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    >>> edges = lambda model, images: images.sum(1)
    >>> share, same = cascade_similarity(model, torch.rand(3, 3, 4, 4), edges, n_steps=1)[0]
    >>> share, same
    (1.0, tensor([1., 1., 1.]))
    """
    original = explain(model, images)
    return [
        (share, spearman(original, explain(twin, images)))
        for share, twin in cascade(model, n_steps, seed)
    ]
