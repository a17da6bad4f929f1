"""Input-gradient regularisation by double backward.

References
----------
Ross and Doshi-Velez, "Improving the adversarial robustness and interpretability of deep neural
networks by regularizing their input gradients" (AAAI 2018), arXiv 1711.09404.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.method import Backward, Method, StepLosses, Visit
from pathology_scaat.scaat.options import check_range, check_whole
from pathology_scaat.scaat.schedule import Schedule


class GradientPenalty(Method):
    """Loss plus ``lam`` times the norm of its input gradient.

    ``norm`` 1 or 2: per image, the sum of |g| or of g squared over pixels and channels. The graph
    is kept for a second backward: about 2 plain steps and twice the memory.

    Raises
    ------
    UsageError
        If the network is compiled: torch.compile does not differentiate twice.
    """

    name = "gradient-penalty"

    def __init__(
        self,
        model: nn.Module,
        *,
        lam: float = 0.1,
        norm: int = 1,
        start: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(model, **common)
        if hasattr(model, "_orig_mod"):
            raise UsageError(
                "gradient-penalty",
                "differentiates twice, which compiled networks cannot",
                "leave compile off",
            )
        check_range("lam", lam, 0.0, 1e6)
        check_whole("norm", norm, 1, 2)
        check_range("start", start, 0.0, 1.0)
        self.lam = lam
        self.norm = norm
        self.start = start

    @property
    def ever_acts(self) -> bool:
        return super().ever_acts and self.lam > 0

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.start)

    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        if self.lam == 0:
            return self.plain_step(images, labels, backward)
        x = images.detach().float().requires_grad_()
        logits = self.forward(x)
        losses = self.objective.per_image(logits, labels)
        (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
        size = gradient.abs() if self.norm == 1 else gradient.square()
        penalty = size.sum(dim=(1, 2, 3)).mean()
        clean = losses.mean()
        total = clean + self.lam * penalty
        backward(total, True)
        return StepLosses(total.detach(), clean.detach(), penalty.detach(), logits.detach())
