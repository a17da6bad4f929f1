"""Masked gradient signs of a whole training set, packed into bits on the host.

One bit a pixel says whether it may change, one a pixel and channel whether the gradient is
positive: (1 + C) / 8 bytes a pixel, 0.5 for RGB. 100,000 patches of 224 px take 2.5 GB. A masked
pixel whose gradient is exactly zero (a dead unit) is kept as negative: any direction serves there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_POWERS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def pack_bits(bits: Tensor) -> Tensor:
    """(N, ...) bool to (N, ceil(n / 8)) uint8, n bits an item, first bit lowest."""
    flat = bits.reshape(len(bits), -1)
    padding = -flat.shape[1] % 8
    if padding:
        flat = torch.nn.functional.pad(flat, (0, padding))
    octets = flat.reshape(len(flat), -1, 8).to(torch.uint8)
    return (octets * _POWERS.to(bits.device)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(octets: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`pack_bits`: (N, *shape) bool."""
    n = 1
    for side in shape:
        n *= side
    bits = (octets[:, :, None] & _POWERS.to(octets.device)) != 0
    return bits.reshape(len(octets), -1)[:, :n].reshape(len(octets), *shape)


class BitStore:
    """Masks, signs and last clean predictions by patch number; grows as patches are met."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._mask = torch.zeros((0, 0), dtype=torch.uint8)
        self._sign = torch.zeros((0, 0), dtype=torch.uint8)
        self._logits = torch.zeros((0, 0))
        self._visits = torch.zeros(0, dtype=torch.int64)

    def _reserve(self, size: int) -> None:
        """Hold at least ``size`` patches, half as many again to grow seldom."""
        missing = size - len(self._visits)
        if missing > 0:
            missing += size // 2
            for name in ("_mask", "_sign", "_logits", "_visits"):
                old = getattr(self, name)
                setattr(self, name, torch.cat([old, old.new_zeros((missing, *old.shape[1:]))]))

    def visits(self, index: Tensor) -> Tensor:
        """How often each patch was recorded, (B,) int64."""
        self._reserve(int(index.max()) + 1 if len(index) else 0)
        return self._visits[index]

    def knows(self, index: Tensor) -> Tensor:
        """Whether each patch has a record, (B,) bool."""
        return self.visits(index) > 0

    def write(self, index: Tensor, signs: Tensor, logits: Tensor) -> None:
        """Record (B, C, H, W) signs, zero outside the mask, and (B, K) logits."""
        if not self._shape:
            self._shape = tuple(signs.shape[1:])
            n = len(self._visits)
            mask, sign = pack_bits(signs[:1].amax(dim=1) > 0), pack_bits(signs[:1] > 0)
            self._mask = torch.zeros((n, mask.shape[1]), dtype=torch.uint8)
            self._sign = torch.zeros((n, sign.shape[1]), dtype=torch.uint8)
            self._logits = torch.zeros((n, logits.shape[1]))
        self._reserve(int(index.max()) + 1)
        self._mask[index] = pack_bits((signs != 0).any(dim=1)).cpu()
        self._sign[index] = pack_bits(signs > 0).cpu()
        self._logits[index] = logits.float().cpu()
        self._visits[index] += 1

    def read(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Signs, (B, C, H, W) float32 of -1, 0, 1, and logits, (B, K), on a device."""
        octets = self._mask[index].to(device), self._sign[index].to(device)
        mask = unpack_bits(octets[0], self._shape[1:])
        sign = unpack_bits(octets[1], self._shape).to(torch.float32).mul_(2).sub_(1)
        return sign * mask[:, None], self._logits[index].to(device)

    def state_dict(self) -> dict[str, Any]:
        return {
            "shape": list(self._shape),
            "mask": self._mask,
            "sign": self._sign,
            "logits": self._logits,
            "visits": self._visits,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._shape = tuple(state["shape"])
        self._mask, self._sign = state["mask"], state["sign"]
        self._logits, self._visits = state["logits"], state["visits"]
