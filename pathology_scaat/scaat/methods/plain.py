"""Ordinary training, the yardstick of every other method."""

from __future__ import annotations

from torch import Tensor

from pathology_scaat.scaat.method import Backward, Method, StepLosses, Visit


class Plain(Method):
    """The objective's loss on the clean images; nothing else."""

    name = "plain"

    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        return self.plain_step(images, labels, backward)
