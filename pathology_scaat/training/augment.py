"""Augmentation on the device: exact turns, stain and colour jitter, a few fused operations.

The random numbers are drawn on the host for the whole batch over all processes, so that two
processes see what one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.scaat.orientation import N_ORIENTATIONS, orient
from pathology_scaat.training.config import AugmentConfig

# Optical density of haematoxylin, eosin and DAB in red, green, blue
# (Ruifrok and Johnston, Anal Quant Cytol Histol 2001;23:291).
STAIN_DENSITY = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
LUMA = np.array([0.299, 0.587, 0.114])
DARKEST = 1 / 255


@dataclass(frozen=True)
class AugmentDraw:
    """The random numbers of one batch.

    Attributes
    ----------
    orientation : Tensor of shape (B,)
        Codes 0 to 7, int64 on the CPU.
    density : Tensor of shape (B, 4, 3) or None
        Affine map of optical density: rows 0 to 2 the matrix, row 3 the shift.
    colour : Tensor of shape (B, 3, 3) or None
        Brightness, contrast and saturation as one matrix over channels.
    contrast : Tensor of shape (B,) or None
        Contrast factor around the image's mean.
    """

    orientation: Tensor
    density: Tensor | None
    colour: Tensor | None
    contrast: Tensor | None

    def part(self, index: slice) -> AugmentDraw:
        """The draw of some of the images."""
        return AugmentDraw(
            self.orientation[index],
            None if self.density is None else self.density[index],
            None if self.colour is None else self.colour[index],
            None if self.contrast is None else self.contrast[index],
        )


def _around_one(rng: np.random.Generator, spread: float, shape: tuple[int, ...]) -> NDArray:  # type: ignore[type-arg]
    return rng.uniform(1 - spread, 1 + spread, shape)


def draw(n: int, config: AugmentConfig, rng: np.random.Generator) -> AugmentDraw:
    """Draw the augmentation of n images."""
    codes = rng.integers(0, N_ORIENTATIONS, n) if config.orientation else np.zeros(n, np.int64)
    density = colour = contrast = None
    if config.stain > 0 or config.stain_shift > 0:
        unmix = np.linalg.inv(STAIN_DENSITY)
        scale = _around_one(rng, config.stain, (n, 3))
        shift = rng.uniform(-config.stain_shift, config.stain_shift, (n, 3))
        matrix = np.einsum("ij,bj,jk->bik", unmix, scale, STAIN_DENSITY)
        density = torch.from_numpy(
            np.concatenate([matrix, (shift @ STAIN_DENSITY)[:, None]], axis=1).astype(np.float32)
        )
    if config.brightness > 0 or config.saturation > 0:
        bright = _around_one(rng, config.brightness, (n, 1, 1))
        keep = _around_one(rng, config.saturation, (n, 1, 1))
        grey = np.broadcast_to(LUMA[:, None], (3, 3))
        colour = torch.from_numpy(
            (bright * (keep * np.eye(3) + (1 - keep) * grey)).astype(np.float32)
        )
    if config.contrast > 0:
        contrast = torch.from_numpy(_around_one(rng, config.contrast, (n,)).astype(np.float32))
    return AugmentDraw(torch.from_numpy(codes.astype(np.int64)), density, colour, contrast)


def to_float(patches: Tensor) -> Tensor:
    """(B, P, P, 3) uint8 to (B, 3, P, P) float32 in [0, 1]; a view in channels-last order."""
    return patches.permute(0, 3, 1, 2).to(torch.float32).div_(255)


@torch.no_grad()
def apply(patches: Tensor, drawn: AugmentDraw) -> Tensor:
    """Augment (B, P, P, 3) uint8 patches into (B, 3, P, P) float32 in [0, 1].

    Stain jitter scales and shifts the three stain amounts in optical density, which is one 3x3
    matrix an image; colours follow as another.
    """
    device = patches.device
    x = patches.to(torch.float32).div_(255).reshape(len(patches), -1, 3)
    if drawn.density is not None:
        affine = drawn.density.to(device, non_blocking=True)
        dense = x.clamp_min_(DARKEST).log_().neg_()
        x = torch.baddbmm(affine[:, 3:], dense, affine[:, :3]).neg_().exp_()
    if drawn.colour is not None:
        x = torch.bmm(x, drawn.colour.to(device, non_blocking=True))
    if drawn.contrast is not None:
        factor = drawn.contrast.to(device, non_blocking=True)[:, None, None]
        x = torch.lerp(x.mean(dim=(1, 2), keepdim=True).expand_as(x), x, factor.expand_as(x))
    x = x.clamp_(0, 1).reshape(patches.shape).permute(0, 3, 1, 2)
    if bool((drawn.orientation != 0).any()):
        x = orient(x, drawn.orientation)
    return x
