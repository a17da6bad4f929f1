"""Which layers a network's own maps are made of, and by which method: convolutions or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.fused_cam import fused_cam, fused_layers
from pathology_scaat.scaat.gradients import Forward, Score
from pathology_scaat.scaat.token_cam import TokenBlocks, token_blocks, token_cam


@dataclass(frozen=True)
class MapLayers:
    """Layers of several resolutions, or the upper blocks of a transformer."""

    found: Sequence[nn.Module] | TokenBlocks

    @property
    def method(self) -> Literal["fused-cam", "token-cam"]:
        """The attribution method that makes maps of them."""
        return "token-cam" if isinstance(self.found, TokenBlocks) else "fused-cam"

    def maps(self, forward: Forward, images: Tensor, score: Score) -> tuple[Tensor, Tensor]:
        """Maps (N, H, W) of images (N, C, H, W), and the logits (N, K), as the method has it."""
        if isinstance(self.found, TokenBlocks):
            return token_cam(forward, images, score, self.found)
        return fused_cam(forward, images, score, self.found)


def map_layers(model: nn.Module, size: Sequence[int], device: torch.device) -> MapLayers | None:
    """Layers whose class activation makes this network's maps; None where the gradient does.

    Which it is was decided by ``benchmarks/evidence/attribution_located.py``: class activation of
    several layers finds the tumour inside patches of real tissue, where the gradient does not, or
    less. A network without layers of several resolutions or a grid of tokens, and one that cannot
    be looked into (TorchScript), has the gradient's.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    size : (C, H, W)
        Of an image.
    device : torch.device
        Of the model.
    """
    for find in (fused_layers, token_blocks):
        try:
            return MapLayers(find(model, size, device))
        except UsageError:
            continue
    return None
