"""Masked gradient signs of a whole training set, packed into bits on the host.

One bit per pixel says whether it may change, one per pixel and channel whether the gradient is
positive: (1 + C) / 8 bytes a pixel, 0.5 for RGB. 100,000 patches of 224 px take 2.5 GB. A masked
pixel whose gradient is exactly zero (a dead unit) is kept as negative: any direction serves there.

A GPU is never waited for: what it records travels to pinned memory while it goes on, and is put
written when it has arrived or is asked for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathology_scaat.execution.devices import recorded_event

_POWERS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def pack_bits(bits: Tensor) -> Tensor:
    """(N, ...) bool to (N, ceil(n / 8)) uint8, n bits an item, first bit lowest."""
    flat = bits.reshape(len(bits), -1)
    padding = -flat.shape[1] % 8
    if padding:
        flat = torch.nn.functional.pad(flat, (0, padding))
    octets = flat.reshape(len(flat), -1, 8).to(torch.uint8)
    return (octets * _POWERS.to(bits.device, non_blocking=True)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(octets: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`pack_bits`: octets (N, m) uint8 to (N, ...) bool, ``shape`` an item."""
    n = 1
    for side in shape:
        n *= side
    bits = (octets[:, :, None] & _POWERS.to(octets.device, non_blocking=True)) != 0
    return bits.reshape(len(octets), -1)[:, :n].reshape(len(octets), *shape)


@dataclass(frozen=True)
class _Arriving:
    """A record on its way from the device: pinned memory, full once ``event`` has happened."""

    index: Tensor
    parts: tuple[Tensor, Tensor, Tensor]
    event: torch.cuda.Event


def _has_happened(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]


def _to_device(values: Tensor, device: torch.device) -> Tensor:
    """Without waiting for what the device is doing (a copy from ordinary memory would)."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def _to_pinned(values: Tensor) -> Tensor:
    arriving = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return arriving.copy_(values, non_blocking=True)


class BitStore:
    """Masks, signs and last clean predictions by patch number; grows as patches are met."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._mask = torch.zeros((0, 0), dtype=torch.uint8)
        self._sign = torch.zeros((0, 0), dtype=torch.uint8)
        self._logits = torch.zeros((0, 0))
        self._visits = torch.zeros(0, dtype=torch.int64)
        self._arriving: deque[_Arriving] = deque()

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
        """Record signs (B, C, H, W), zero outside the mask, and logits (B, K) of patches (B,)."""
        if not self._shape:
            self._shape = tuple(signs.shape[1:])
            n = len(self._visits)
            mask, sign = pack_bits(signs[:1].amax(dim=1) > 0), pack_bits(signs[:1] > 0)
            self._mask = torch.zeros((n, mask.shape[1]), dtype=torch.uint8)
            self._sign = torch.zeros((n, sign.shape[1]), dtype=torch.uint8)
            self._logits = torch.zeros((n, logits.shape[1]))
        self._reserve(int(index.max()) + 1)
        self._visits[index] += 1
        parts = pack_bits((signs != 0).any(dim=1)), pack_bits(signs > 0), logits.float()
        if signs.device.type != "cuda":
            self._write(index, (parts[0].cpu(), parts[1].cpu(), parts[2].cpu()))
            return
        self._write_arrived(0)
        pinned = _to_pinned(parts[0]), _to_pinned(parts[1]), _to_pinned(parts[2])
        self._arriving.append(_Arriving(index, pinned, recorded_event(signs.device)))

    def _write(self, index: Tensor, parts: tuple[Tensor, Tensor, Tensor]) -> None:
        self._mask[index], self._sign[index], self._logits[index] = parts

    def _write_arrived(self, n_awaited: int) -> None:
        """Put in place the first ``n_awaited`` records on their way, and what else has arrived."""
        while self._arriving and (n_awaited > 0 or _has_happened(self._arriving[0].event)):
            record = self._arriving.popleft()
            record.event.synchronize()
            self._write(record.index, record.parts)
            n_awaited -= 1

    def read(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Signs, (B, C, H, W) float32 of -1, 0, 1, and logits, (B, K), on a device."""
        concerned = [bool(torch.isin(index, record.index).any()) for record in self._arriving]
        self._write_arrived(
            max((k for k, is_so in enumerate(concerned, start=1) if is_so), default=0)
        )
        octets = _to_device(self._mask[index], device), _to_device(self._sign[index], device)
        mask = unpack_bits(octets[0], self._shape[1:])
        sign = unpack_bits(octets[1], self._shape).to(torch.float32).mul_(2).sub_(1)
        return sign * mask[:, None], _to_device(self._logits[index], device)

    def state_dict(self) -> dict[str, Any]:
        self._write_arrived(len(self._arriving))
        return {
            "shape": list(self._shape),
            "mask": self._mask,
            "sign": self._sign,
            "logits": self._logits,
            "visits": self._visits,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._arriving.clear()
        self._shape = tuple(state["shape"])
        self._mask, self._sign = state["mask"], state["sign"]
        self._logits, self._visits = state["logits"], state["visits"]
