"""Patches to a device and results back, without waiting for either."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ToDevice:
    """Sends batches of patches to a device as images.

    On CUDA the copy goes over a stream of its own, beside the computation of the batch before;
    it takes a third of the bytes of float32, since pixels become numbers there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, patches: NDArray[np.uint8]) -> Tensor:
        """(n, P, P, 3) uint8 to (n, 3, P, P) float32 in [0, 1], channels last in memory."""
        pixels = torch.from_numpy(patches)
        if self._stream is None:
            pixels = pixels.to(self.device)
        else:
            if not pixels.is_pinned():
                pixels = pixels.pin_memory()
            with torch.cuda.stream(self._stream):
                pixels = pixels.to(self.device, non_blocking=True)
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self._stream)
            # Its memory was taken on the other stream: not to be given away before this one is
            # done with it.
            pixels.record_stream(here)
        return pixels.permute(0, 3, 1, 2).float().div_(255)


class Fetched:
    """Results of any shape on their way from a device; nothing waits until they are asked for."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        if tensors and tensors[0].device.type == "cuda":
            self._host = []
            for tensor in tensors:
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._host.append(host.copy_(tensor.detach(), non_blocking=True))
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(tensors[0].device))
        else:
            self._host = [tensor.detach().cpu() for tensor in tensors]

    def numpy(self) -> list[NDArray[np.float32]]:
        """The values, of any shape (that of its tensor) each; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return [host.numpy() for host in self._host]


class Pending:
    """The results of a batch (n, P, P, 3) of patches, finished on the CPU when they are asked for.

    Until then it keeps the patches: a copy to the device may still be reading them.
    """

    def __init__(
        self,
        fetched: Fetched,
        finish: Callable[[list[NDArray[np.float32]]], tuple[NDArray[np.float32], ...]],
        patches: NDArray[np.uint8],
    ) -> None:
        self._fetched, self._finish, self._patches = fetched, finish, patches

    def result(self) -> tuple[NDArray[np.float32], ...]:
        """What the explainer gives for the batch, (n, ...) each; waits for the device."""
        return self._finish(self._fetched.numpy())
