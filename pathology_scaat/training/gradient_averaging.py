"""Data parallel training: gradients averaged over processes, whatever the method does.

Why not ``DistributedDataParallel`` (nor Lightning Fabric over it): its reducer expects one forward
and one backward a step, and does not work with ``torch.autograd.grad``, which every attack here
uses; each method would need its own ``no_sync`` blocks and unwrapped calls. Here the model stays
a plain module. Passes before the last accumulate locally (what ``no_sync`` does), and during the
last each bucket is reduced as soon as its gradients are complete, overlapping with the rest of
that backward pass.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 16 << 20


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self.flat: Tensor | None = None
        self.work: dist.Work | None = None

    def launch(self) -> None:
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        self.flat = torch.cat([g.reshape(-1) for g in grads])
        self.work = dist.all_reduce(self.flat, async_op=True)

    def finish(self, world_size: int) -> None:
        if self.flat is None or self.work is None:
            return
        self.work.wait()
        start = 0
        for parameter in self.parameters:
            part = self.flat[start : start + parameter.numel()].view_as(parameter) / world_size
            start += parameter.numel()
            if parameter.grad is None:
                parameter.grad = part
            else:
                parameter.grad.copy_(part)
        self.flat, self.work = None, None
        self.missing = len(self.parameters)


class GradientAverager:
    """Runs a method's backward passes and averages the gradients of the last.

    Use ``backward`` as the methods' ``backward`` argument and ``finish`` before the optimiser's
    step. With one process both are the ordinary thing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._armed = False
        self._buckets: list[_Bucket] = []
        if self.world_size == 1:
            return
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.data, src=0)
        group: list[nn.Parameter] = []
        size = 0
        # backward passes reach the last parameters first
        for parameter in reversed([p for p in model.parameters() if p.requires_grad]):
            group.append(parameter)
            size += parameter.numel() * parameter.element_size()
            if size >= BUCKET_BYTES:
                self._add(group)
                group, size = [], 0
        if group:
            self._add(group)

    def _add(self, parameters: list[nn.Parameter]) -> None:
        bucket = _Bucket(parameters)
        self._buckets.append(bucket)

        def ready(_: Tensor) -> None:
            if not self._armed:
                return
            bucket.missing -= 1
            # in bucket order on every process, or reductions would pair up wrongly
            for candidate in self._buckets:
                if candidate.work is None:
                    if candidate.missing > 0:
                        break
                    candidate.launch()

        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(ready)  # type: ignore[no-untyped-call]

    def backward(self, loss: Tensor, last: bool) -> None:
        """Run a backward pass of a scalar loss; the last of a step starts the reductions."""
        self._armed = last and self.world_size > 1
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            self._armed = False

    def finish(self) -> None:
        """Wait until all gradients are averages."""
        if self.world_size == 1:
            return
        for bucket in self._buckets:
            if bucket.work is None:
                bucket.launch()
        for bucket in self._buckets:
            bucket.finish(self.world_size)


def average_buffers(model: nn.Module) -> None:
    """Average floating-point buffers (BatchNorm's statistics) over the processes."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()
