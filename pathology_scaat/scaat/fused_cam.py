r"""Class activation of several layers in one map: which region, and what in it.

The last spatial layer of a network knows which region speaks for the class, but not where in it;
finer layers know where, and less of the class. Here both have to agree: the map is the geometric
mean of Grad-CAM of the coarsest layer and LayerCAM of the finer ones,

.. math:: \Big(\mathrm{GradCAM}_1 \prod_{l=2}^{L} \mathrm{LayerCAM}_l\Big)^{1/L},

each enlarged to the image. Of an image that nothing speaks for the class in, it is zero.

References
----------
Selvaraju et al. 2017 (Grad-CAM); Jiang et al. 2021 (LayerCAM, which fuses layers by their largest
value); Englebert et al. 2022 (Poly-CAM, which multiplies maps of layers). That the product is of
this form, and of which layers, was chosen by ``benchmarks/evidence/attribution_located.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.gradients import (
    Forward,
    Score,
    class_activation_map,
    layer_class_activation,
    see_outputs,
    slopes_at,
    spatial_activation,
)

FINEST_CELL_PX = 4
"""Layers whose positions are narrower than this say more of edges than of the class; and maps are
stored in squares of 4 px."""
MOST_NEGATIVE = 0.25
"""Share of negative values up to which an output counts as positive: after ReLU there are none,
after SiLU and the like few, without an activation function half."""
FLOOR = 1e-3
"""Of a layer's mean over the image, added to its map: where one layer is zero the others order."""


@dataclass(frozen=True)
class _Seen:
    name: str
    module: nn.Module
    grid: tuple[int, int]
    """Rows and columns of positions."""
    octave: int
    """Width of a position in pixels, as a rounded power of two."""
    negative: float
    """Share of the output's absolute values that is of negative ones, 0 to 1."""


def noise_image(size: Sequence[int], device: torch.device) -> Tensor:
    """One image (1, C, H, W) of the same noise in 0..1 each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand((1, *size), generator=generator).to(device)


def _spatial_outputs(model: nn.Module, image: Tensor) -> list[_Seen]:
    """Modules whose output is a map of at least 2 x 2 positions, in the order they end in."""
    seen: list[_Seen] = []
    width = image.shape[-1]

    def note(name: str, module: nn.Module, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(image):
            return
        found = spatial_activation(output, 0)
        if found is not None and min(found.shape[-2:]) > 1:
            grid = (found.shape[-2], found.shape[-1])
            size = output.float().abs().sum().clamp_min(1e-30)
            negative = float(output.float().clamp(max=0).sum().abs() / size)
            seen.append(_Seen(name, module, grid, round(math.log2(width / grid[1])), negative))

    see_outputs(model, image, note)
    return seen


def fused_layers(model: nn.Module, size: Sequence[int], device: torch.device) -> list[nn.Module]:
    """A layer of each resolution, coarsest first, down to positions of 4 px.

    It is where a resolution ends: the last output that is not inside a block that ends in another
    one, for those are a branch of what goes on. LayerCAM is a statement on positive activations:
    where many of the end's are negative, as after a block without an activation function, the next
    layer of the same resolution is taken of which that is not so, if there is one. Which layers
    these are hangs on the network alone: a forward pass is tried with noise.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    size : (C, H, W)
        Of an image.
    device : torch.device
        Of the model.

    Raises
    ------
    UsageError
        If fewer than two resolutions are found: in transformers of one grid, in networks that
        cannot be looked into.
    """
    seen = _spatial_outputs(model, noise_image(size, device))
    containers = {n for n, m in model.named_modules() if type(m) is nn.Sequential}
    ends_in = {each.name: each.octave for each in seen if each.name not in containers}

    def is_branch(each: _Seen) -> bool:
        parts = each.name.split(".")
        outer = (".".join(parts[:k]) for k in range(1, len(parts)))
        return any(ends_in.get(name, each.octave) != each.octave for name in outer)

    finest = round(math.log2(FINEST_CELL_PX))
    chosen: list[nn.Module] = []
    for octave in sorted({each.octave for each in seen if each.octave >= finest}, reverse=True):
        own = [each for each in seen if each.octave == octave]
        end = max((k for k, each in enumerate(own) if not is_branch(each)), default=None)
        if end is None:
            continue
        later = [each for each in own[end:] if each.grid == own[end].grid]
        positive = [each for each in later if each.negative <= MOST_NEGATIVE]
        chosen.append((positive or later)[0].module)
    if len(chosen) < 2:
        raise UsageError(
            "fused-cam",
            f"needs layers of two resolutions and more, and finds {len(chosen)} in this network",
            "choose 'grad-cam' or 'gradient'",
        )
    return chosen


def geometric_mean(maps: Sequence[Tensor]) -> Tensor:
    """Of maps (N, H, W), not negative; each has :data:`FLOOR` of its own mean added before.

    Zero of an image that one of the maps is zero everywhere of.
    """
    total = torch.zeros_like(maps[0])
    for one in maps:
        total += (one + FLOOR * one.mean(dim=(1, 2), keepdim=True)).log()
    return (total / len(maps)).exp()


def fused_cam(
    forward: Forward, images: Tensor, score: Score, layers: Sequence[nn.Module]
) -> tuple[Tensor, Tensor]:
    """Geometric mean of Grad-CAM of the first layer and LayerCAM of the others.

    One forward pass and one backward pass, which ends at the finest of the layers.

    Parameters
    ----------
    forward : callable
        Images (N, C, H, W) to logits (N, K), through the layers.
    images : Tensor, (N, C, H, W)
    score : callable
        Logits (N, K) to a number per image, (N,).
    layers : sequence of nn.Module
        As :func:`fused_layers` finds them.

    Returns
    -------
    tuple of Tensor
        Maps (N, H, W) float32, not negative, in the unit of the score; and the logits (N, K).
    """
    found = slopes_at(forward, images, score, layers)
    height, width = images.shape[-2:]
    maps = []
    for number, (kept, gradient) in enumerate(found.layers):
        activation, slope = spatial_activation(kept, 0), spatial_activation(gradient, 0)
        if activation is None or slope is None:  # by fused_layers both are maps
            continue
        make = layer_class_activation if number else class_activation_map
        maps.append(make(activation, slope, (height, width)))
    return geometric_mean(maps), found.logits
