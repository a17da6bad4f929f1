"""A watch for catastrophic overfitting of single-step training.

A model can learn to resist exactly the single step it is trained with while any stronger attack
breaks it; this happens within an epoch or two (Wong et al. 2020, arXiv 2001.03994). The sign: the
loss under several masked steps runs away from the loss under one.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from pathology_scaat.scaat.objective import Objective
from pathology_scaat.scaat.options import ScaatOptions
from pathology_scaat.scaat.scaat import SCAAT

SUSPICIOUS_RATIO = 5.0
SUSPICIOUS_GAP = 0.7


@dataclasses.dataclass(frozen=True)
class OverfittingCheck:
    """Mean loss increases over the clean loss, in nats.

    Attributes
    ----------
    step_gap : float
        Under the single masked step used in training.
    pgd_gap : float
        Under several masked steps within the same budget.
    """

    step_gap: float
    pgd_gap: float

    @property
    def is_suspicious(self) -> bool:
        """Several steps do over five times the harm of one, and more than a coin's worth (0.7)."""
        return self.pgd_gap > SUSPICIOUS_GAP and self.pgd_gap > SUSPICIOUS_RATIO * max(
            self.step_gap, 0.0
        )


def check_overfitting(
    model: nn.Module,
    objective: Objective,
    images: Tensor,
    labels: Tensor,
    options: ScaatOptions,
    *,
    steps: int = 5,
    seed: int = 0,
) -> OverfittingCheck:
    """Compare one masked step with several on a few training images (B, C, H, W) in [0, 1].

    The model is put into evaluation mode and back; no gradient is left in its parameters.
    """
    was_training = [module.training for module in model.modules()]
    model.eval()
    base = dataclasses.replace(
        options, fill="perturb", saliency="gradient", sample_scale="none", batch_norm="frozen"
    )
    single = dataclasses.replace(base, steps=1, alpha=None)
    several = dataclasses.replace(base, steps=steps, alpha=None)

    @torch.no_grad()
    def loss(x: Tensor) -> float:
        return float(objective.per_image(model(x).float(), labels).mean())

    try:
        clean = loss(images)
        gaps = [
            loss(SCAAT(model, options=o, objective=objective, seed=seed).perturb(images, labels))
            - clean
            for o in (single, several)
        ]
    finally:
        for module, training in zip(model.modules(), was_training, strict=True):
            module.training = training
    return OverfittingCheck(step_gap=gaps[0], pgd_gap=gaps[1])
