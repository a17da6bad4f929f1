"""The eight turns and flips of a square patch, exact and invertible.

Code ``c`` in 0 to 7: the image is flipped left-right if ``c >= 4``, then turned counterclockwise
by ``c % 4`` quarters.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_ORIENTATIONS = 8


def _orient_all(images: Tensor, code: int, inverse: bool) -> Tensor:
    if inverse:
        turned = torch.rot90(images, -(code % 4), (2, 3))
        return turned.flip(3) if code >= 4 else turned
    flipped = images.flip(3) if code >= 4 else images
    return torch.rot90(flipped, code % 4, (2, 3))


def orient(images: Tensor, codes: Tensor, *, inverse: bool = False) -> Tensor:
    """Turn and flip each image of (B, C, S, S) by its code, (B,) int64 on the CPU.

    The codes stay on the CPU so that grouping by code never waits for the device.
    """
    result = torch.empty_like(images)
    for code in range(N_ORIENTATIONS):
        chosen = torch.nonzero(codes == code)[:, 0]
        if len(chosen):
            index = chosen.to(images.device, non_blocking=True)
            result[index] = _orient_all(images[index], code, inverse)
    return result
