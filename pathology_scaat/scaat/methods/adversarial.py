"""Adversarial training over all pixels: FGSM-RS, PGD, TRADES and Free.

References
----------
Wong, Rice, Kolter, "Fast is better than free" (ICLR 2020), arXiv 2001.03994.
Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018),
arXiv 1706.06083. Zhang et al., "Theoretically principled trade-off" (TRADES, ICML 2019),
arXiv 1901.08573. Shafahi et al., "Adversarial training for free!" (NeurIPS 2019),
arXiv 1904.12843.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.batch_norm import batch_norm_policy, frozen_parameters
from pathology_scaat.scaat.method import Backward, Method, StepLosses, Visit
from pathology_scaat.scaat.objective import Objective
from pathology_scaat.scaat.options import check_range, check_whole
from pathology_scaat.scaat.schedule import Schedule


def projected(images: Tensor, candidate: Tensor, eps: float) -> Tensor:
    """``candidate`` clipped pixel by pixel to ``images`` ± eps and to [0, 1], (N, C, H, W)."""
    return torch.clamp(torch.clamp(candidate, images - eps, images + eps), 0, 1)


class _Attack(Method):
    """Shared settings: budget, step and schedule of an attack on all pixels."""

    def __init__(
        self,
        model: nn.Module,
        *,
        eps: float = 8 / 255,
        warmup: float = 0.1,
        start: float = 0.0,
        objective: Objective | None = None,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(
            model, objective=objective, seed=seed, autocast_dtype=autocast_dtype, **unknown
        )
        check_range("eps", eps, 0.0, 1.0)
        check_range("warmup", warmup, 0.0, 1.0)
        check_range("start", start, 0.0, 1.0)
        self.eps = eps
        self.warmup = warmup
        self.start = start

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.start, self.warmup)

    @property
    def ever_acts(self) -> bool:
        return super().ever_acts and self.eps > 0

    @property
    def eps_now(self) -> float:
        return self.eps * self.schedule.strength(self.progress)


class Pgd(_Attack):
    """PGD adversarial training: the loss on the worst image found in ``steps`` steps.

    ``2 steps + 3`` units against 3 of a plain step. ``alpha`` is the step in [0, 1] units, by
    default 1.25 eps for one step and 2.5 eps / steps for more.
    """

    name = "pgd"

    def __init__(
        self, model: nn.Module, *, steps: int = 7, alpha: float | None = None, **common: Any
    ) -> None:
        super().__init__(model, **common)
        check_whole("steps", steps, 1, 1000)
        if alpha is not None:
            check_range("alpha", alpha, 0.0, 1.0)
        self.steps = steps
        self.alpha = alpha

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """The worst image found within eps, (B, C, H, W) in [0, 1], detached."""
        self.check_images(images)
        eps = self.eps_now
        step = self.alpha if self.alpha is not None else eps * max(2.5 / self.steps, 0.0)
        if self.alpha is None and self.steps == 1:
            step = 1.25 * eps
        images = images.detach().float()
        adversary = projected(images, images + eps * self.uniform(images), eps)
        for _ in range(self.steps):
            gradient = self.input_gradient(adversary, labels)
            adversary = projected(images, adversary + step * gradient.sign(), eps)
        return adversary

    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        adversary = self.perturb(images, labels)
        logits = self.forward(adversary)
        loss = self.objective.per_image(logits, labels).mean()
        kept = adversary if self.keep_perturbed else None
        del adversary
        backward(loss, True)
        value = loss.detach()
        return StepLosses(value, torch.zeros_like(value), value, logits.detach(), kept)


def fgsm(model: nn.Module, *, alpha: float | None = None, **common: Any) -> Pgd:
    """FGSM-RS: one step from a random start (5/3 of a plain step)."""
    if "steps" in common:
        raise UsageError("steps", "FGSM takes one", "leave it out, or choose the method 'pgd'")
    return Pgd(model, steps=1, alpha=alpha, **common)


class Trades(_Attack):
    """Clean loss plus ``lam`` times the divergence to the worst image within eps.

    The attack starts from small noise, because the divergence's gradient vanishes at the image.
    """

    name = "trades"

    def __init__(
        self, model: nn.Module, *, steps: int = 5, lam: float = 6.0, **common: Any
    ) -> None:
        super().__init__(model, **common)
        check_whole("steps", steps, 1, 1000)
        check_range("lam", lam, 0.0, 1e3)
        self.steps = steps
        self.lam = lam

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """The image of largest divergence found within eps, (B, C, H, W) in [0, 1], detached.

        Labels are not looked at.
        """
        self.check_images(images)
        eps = self.eps_now
        step = eps * 2.5 / self.steps
        images = images.detach().float()
        with frozen_parameters(self.model), batch_norm_policy(self.model, "clean"):
            with torch.no_grad():
                reference = self.forward(images)
            adversary = projected(images, images + 1e-3 * self.uniform(images), eps)
            for _ in range(self.steps):
                x = adversary.requires_grad_()
                divergence = self.objective.divergence(reference, self.forward(x)).sum()
                (gradient,) = torch.autograd.grad(divergence, x)
                adversary = projected(images, x.detach() + step * gradient.sign(), eps)
        return adversary

    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        adversary = self.perturb(images, labels)
        logits = self.forward(images)
        clean = self.objective.per_image(logits, labels).mean()
        with batch_norm_policy(self.model, "clean"):
            robust = self.objective.divergence(logits, self.forward(adversary)).mean()
        total = clean + self.lam * robust
        kept = adversary if self.keep_perturbed else None
        del adversary
        backward(total, True)
        return StepLosses(total.detach(), clean.detach(), robust.detach(), logits.detach(), kept)


class FreeTraining(_Attack):
    """Free adversarial training: each backward updates the weights and the perturbation.

    A batch is kept for ``replays`` consecutive steps while the perturbation grows on it, and the
    batches offered meanwhile are passed over: an epoch costs what a plain one does (1.0) and
    shows each patch ``replays`` times every ``replays`` epochs, as in the paper, whose epochs
    are divided by the number of replays instead. The perturbation is carried over to the next
    batch.
    """

    name = "free"

    def __init__(self, model: nn.Module, *, replays: int = 4, **common: Any) -> None:
        super().__init__(model, **common)
        check_whole("replays", replays, 1, 1000)
        self.replays = replays
        self._forget()

    def _forget(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None
        self._left = 0
        self._delta: Tensor | None = None

    def start_epoch(self, seed: int) -> None:
        super().start_epoch(seed)
        self._forget()

    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        eps = self.eps_now
        if self._left == 0 or self._kept is None:
            self._kept, self._left = (images.detach().float(), labels), self.replays
        self._left -= 1
        images, labels = self._kept
        if self._delta is None or self._delta.shape != images.shape:
            self._delta = torch.zeros_like(images)
        x = projected(images, images + self._delta, eps).requires_grad_()
        logits = self.forward(x)
        loss = self.objective.per_image(logits, labels).mean()
        backward(loss, True)
        if x.grad is not None:
            self._delta = (self._delta + eps * x.grad.sign()).clamp_(-eps, eps)
        value = loss.detach()
        return StepLosses(value, torch.zeros_like(value), value, logits.detach(), x.detach())
