r"""Class activation of a transformer's upper blocks in one map.

Which region speaks for the class is told by the last block's tokens, where in it by those of the
blocks before as well. Here they have to agree: the map is the geometric mean of Grad-CAM of the
last block and LayerCAM of each block of the upper half,

.. math:: \Big(\mathrm{GradCAM}_n \prod_{l > n / 2} \mathrm{LayerCAM}_l\Big)^{1 / (1 + n - n/2)},

at the tokens that a block's attention reads, laid out as the grid they come from and enlarged to
the image. Of an image that nothing speaks for the class in, it is zero.

References
----------
Selvaraju et al. 2017 (Grad-CAM); Jiang et al. 2021 (LayerCAM). It is
:mod:`~pathology_scaat.scaat.fused_cam` for networks of one resolution; that it is of this form was
chosen by ``benchmarks/evidence/attribution_located.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.fused_cam import geometric_mean, noise_image
from pathology_scaat.scaat.gradients import (
    Forward,
    Score,
    class_activation_map,
    layer_class_activation,
    prefix_tokens,
    see_outputs,
    slopes_at,
)
from pathology_scaat.scaat.grid import network_cell

REMEDY = "choose 'fused-cam' or 'gradient'"


@dataclass(frozen=True)
class TokenBlocks:
    """Where the tokens are taken from.

    Attributes
    ----------
    layers : tuple of nn.Module
        The normalisation in each block of the upper half whose output its attention reads.
    prefix : int
        Tokens before those of the grid: class token and registers.
    grid : (int, int)
        Rows and columns.
    """

    layers: tuple[nn.Module, ...]
    prefix: int
    grid: tuple[int, int]

    def laid_out(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, C) of the grid as (N, C, rows, columns)."""
        of_grid = tokens[:, self.prefix :].transpose(1, 2)
        return of_grid.reshape(*of_grid.shape[:2], *self.grid)


def _read_by_attention(model: nn.Module, image: Tensor) -> list[tuple[nn.Module, int]]:
    """A block's own layer whose output, tokens (1, T, C), its attention reads, and T; in order."""
    outputs: list[tuple[str, nn.Module, Tensor]] = []
    found: list[tuple[nn.Module, int]] = []

    def note(name: str, module: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 3:
            outputs.append((name.rpartition(".")[0], module, output))

    def watch(name: str, attention: nn.Module) -> torch.utils.hooks.RemovableHandle:
        block = name.rpartition(".")[0]

        def reads(_module: nn.Module, inputs: tuple[object, ...]) -> None:
            own = [(m, o) for where, m, o in outputs if where == block and o is inputs[0]]
            found.extend((module, output.shape[1]) for module, output in own[:1])

        return attention.register_forward_pre_hook(reads)

    handles = [
        watch(name, module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "attn" and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        see_outputs(model, image, note)
    finally:
        for handle in handles:
            handle.remove()
    return found


def token_blocks(model: nn.Module, size: Sequence[int], device: torch.device) -> TokenBlocks:
    """The upper half of a transformer's blocks; a forward pass is tried with noise.

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
        If there are no blocks of attention, normalised before, over one grid of tokens.
    """
    image = noise_image(size, device)
    found = _read_by_attention(model, image)
    if not found:
        raise UsageError("token-cam", "finds no blocks of attention in this network", REMEDY)
    cell = network_cell(model, image)
    rows, columns = image.shape[-2] // cell[0], image.shape[-1] // cell[1]
    counts = {count for _layer, count in found}
    prefix = found[0][1] - rows * columns
    if len(counts) > 1 or prefix != (prefix_tokens(model) or 0) or min(rows, columns) < 2:
        raise UsageError(
            "token-cam",
            f"needs one grid of tokens in every block, and finds {sorted(counts)} tokens for "
            f"{rows} x {columns} cells",
            REMEDY,
        )
    layers = [layer for layer, _count in found]
    return TokenBlocks(tuple(layers[len(layers) // 2 :]), prefix, (rows, columns))


def token_cam(
    forward: Forward, images: Tensor, score: Score, blocks: TokenBlocks
) -> tuple[Tensor, Tensor]:
    """Geometric mean of Grad-CAM of the last block and LayerCAM of all of them.

    One forward pass and one backward pass, which ends at the lowest of the blocks.

    Parameters
    ----------
    forward : callable
        Images (N, C, H, W) to logits (N, K), through the blocks.
    images : Tensor, (N, C, H, W)
        Of the size that the blocks were found with.
    score : callable
        Logits (N, K) to a number per image, (N,).
    blocks : TokenBlocks
        As :func:`token_blocks` finds them.

    Returns
    -------
    tuple of Tensor
        Maps (N, H, W) float32, not negative, in the unit of the score; and the logits (N, K).
    """
    found = slopes_at(forward, images, score, blocks.layers)
    size = (images.shape[-2], images.shape[-1])
    pairs = [(blocks.laid_out(kept), blocks.laid_out(slope)) for kept, slope in found.layers]
    maps = [class_activation_map(*pairs[-1], size)]
    maps += [layer_class_activation(*pair, size) for pair in pairs]
    return geometric_mean(maps), found.logits
