"""Mosaics of tissue of two classes: a pointing game that needs no pixel annotation.

Half of the tiles of a mosaic come from images of the target class, half from the others; a
good map ranks the former's pixels first. Tiles are crops at the original resolution, so that
the mosaic has the size and the µm/px that the model was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pathology_scaat.errors import UsageError


@dataclass(frozen=True)
class Mosaics:
    """Composite images and where their target tiles are.

    ``images`` (M, C, H, W); ``masks`` (M, H, W) bool; ``sources`` (M, tiles²) int64, the image
    each tile came from, row by row.
    """

    images: Tensor
    masks: Tensor
    sources: Tensor


def make_mosaics(
    images: Tensor, is_target: Tensor, n_mosaics: int, *, tiles: int = 2, seed: int = 0
) -> Mosaics:
    """Compose mosaics of ``tiles`` x ``tiles`` random crops, half of them of the target class.

    Parameters
    ----------
    images : Tensor, (N, C, H, W)
        The side must be a multiple of ``tiles``.
    is_target : Tensor, (N,) bool
    n_mosaics : int
    tiles : int
        Tiles along a side, even.
    seed : int

    Returns
    -------
    Mosaics

    Raises
    ------
    UsageError
        If a class is missing or the side cannot be divided.

    Examples
    --------
    >>> import torch
    >>> mosaics = make_mosaics(torch.rand(6, 3, 8, 8), torch.arange(6) < 3, 5)
    >>> mosaics.images.shape, mosaics.masks.float().mean().item()
    (torch.Size([5, 3, 8, 8]), 0.5)
    """
    _, _, height, width = images.shape
    if tiles < 2 or tiles % 2 or height % tiles or width % tiles:
        raise UsageError("tiles", f"{tiles} does not fit images of {height} x {width}", "use 2")
    flags = is_target.cpu().bool()
    pools = [torch.nonzero(flags)[:, 0], torch.nonzero(~flags)[:, 0]]
    if not all(len(pool) for pool in pools):
        raise UsageError("images", "are all of one class", "give images of two classes")
    generator = torch.Generator().manual_seed(seed)
    th, tw = height // tiles, width // tiles
    n = tiles * tiles
    composed = torch.empty((n_mosaics, *images.shape[1:]), dtype=images.dtype, device=images.device)
    masks = torch.zeros((n_mosaics, height, width), dtype=torch.bool)
    sources = torch.empty((n_mosaics, n), dtype=torch.int64)
    for m in range(n_mosaics):
        of_target = torch.randperm(n, generator=generator) < n // 2
        for t in range(n):
            pool = pools[0] if of_target[t] else pools[1]
            source = int(pool[torch.randint(len(pool), (1,), generator=generator)])
            y = int(torch.randint(height - th + 1, (1,), generator=generator))
            x = int(torch.randint(width - tw + 1, (1,), generator=generator))
            row, col = (t // tiles) * th, (t % tiles) * tw
            composed[m, :, row : row + th, col : col + tw] = images[
                source, :, y : y + th, x : x + tw
            ]
            masks[m, row : row + th, col : col + tw] = bool(of_target[t])
            sources[m, t] = source
    return Mosaics(composed, masks.to(images.device), sources)
