"""Ordinary training, the yardstick of every other method."""

from __future__ import annotations

from torch import Tensor

from pathology_scaat.scaat.method import Backward, Method, StepLosses, Visit, plain_backward


class Plain(Method):
    """The objective's loss on the clean images; nothing else."""

    name = "plain"

    def training_step(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        visit: Visit | None = None,
        backward: Backward = plain_backward,
    ) -> StepLosses:
        self.check_images(images)
        self.steps_done += 1
        return self.plain_step(images, labels, backward)
