"""SCAAT near the price of plain training: masks and directions from the last visit.

For each patch of the training set the mask (1 bit a pixel) and the sign of the gradient (3 bits)
of its last clean visit are kept, in the patch's own orientation. At the next visits the perturbed
image is built from them without any pass of its own. A part of each batch is shown clean: it
refreshes its masks, directions and reference predictions from the backward that trains on it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.mask_store import BitStore
from pathology_scaat.scaat.method import Backward, Method, StepLosses, Visit
from pathology_scaat.scaat.options import ScaatOptions, check_range
from pathology_scaat.scaat.orientation import orient
from pathology_scaat.scaat.scaat import SCAAT, SHARED_SOURCES
from pathology_scaat.scaat.schedule import Schedule

HONOURED = frozenset({
    "eps", "mask_ratio", "alpha", "lam", "saliency", "where", "grid", "unmasked_share", "start",
    "warmup", "region", "tissue_threshold", "smooth_px",
})  # fmt: skip
"""Options of SCAAT that mean the same here; ``gamma`` is 0, and all others are as ever."""


class AmortisedScaat(Method):
    """SCAAT with stored masks and directions.

    Each batch is split: a share ``refresh`` (and every patch not met before) is trained on
    clean and refreshes its record; the others are trained on as perturbed by their record, with
    ``CE(f(x~), y) + lam KL(kept clean prediction || f(x~))``. Every image is passed through the
    network once: 1.0 plain steps, whatever the share.

    Records stay with the process that made them. Where several processes share a training, each
    meets a patch less often, so more of its records are missing or old; and a checkpoint holds
    those of the first alone, so that such a training does not go on exactly where it stopped.

    Parameters
    ----------
    model : nn.Module
        See :class:`~pathology_scaat.scaat.method.Method`.
    refresh : float
        Share of each batch that is shown clean, above 0.
    objective, seed, autocast_dtype
        See :class:`~pathology_scaat.scaat.method.Method`.
    **overrides
        Fields of :class:`~pathology_scaat.scaat.options.ScaatOptions`, with the adversary from
        the start (``start=0``) by default; only the hard mask
        (``gamma=0``, the default here) can be stored, and what does not say where and how far
        (:data:`HONOURED`) must be as it is by default.

    Raises
    ------
    UsageError
        If an option is out of range, or one that cannot be stored.
    """

    name = "scaat-amortised"

    def __init__(
        self,
        model: nn.Module,
        *,
        refresh: float = 0.5,
        objective: Any = None,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__(model, objective=objective, seed=seed, autocast_dtype=autocast_dtype)
        check_range("refresh", refresh, 1e-6, 1.0)
        self.refresh = refresh
        self.scaat = SCAAT(
            model, objective=self.objective, seed=seed, autocast_dtype=autocast_dtype,
            **{"gamma": 0.0, "start": 0.0, **overrides},
        )  # fmt: skip
        options = self.scaat.options
        usual = dataclasses.asdict(ScaatOptions(gamma=0.0))
        other = [
            name for name, value in dataclasses.asdict(options).items()
            if name not in HONOURED and value != usual[name]
        ]  # fmt: skip
        if options.saliency not in SHARED_SOURCES:
            other.append("saliency")
        if other:
            raise UsageError(
                "scaat-amortised",
                "keeps a mask and signs of each visit as bits, which cannot hold "
                + ", ".join(f"{name} {getattr(options, name)}" for name in other),
                "leave it out, or choose the method 'scaat'",
            )
        self.options = options
        self.store = BitStore()

    def start_epoch(self, seed: int) -> None:
        super().start_epoch(seed)
        self.scaat.start_epoch(seed)

    def set_progress(self, fraction: float) -> None:
        super().set_progress(fraction)
        self.scaat.set_progress(fraction)

    @property
    def ever_acts(self) -> bool:
        return self.scaat.ever_acts

    @property
    def schedule(self) -> Schedule:
        return self.scaat.schedule

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "store": self.store.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.store.load_state_dict(state["store"])

    def _choose_clean(self, visit: Visit, n: int) -> Tensor:
        """(B,) bool on the CPU: which images are shown clean; always as many as can be."""
        known = self.store.knows(visit.index)
        wanted = max(1, math.ceil(self.refresh * n))
        ages = self.store.visits(visit.index).double()
        draw = torch.rand(n, generator=self.generator(torch.device("cpu")), dtype=torch.float64)
        order = torch.argsort(ages + draw)  # least often refreshed first, ties at random
        clean = ~known
        clean[order[:wanted]] = True
        return clean

    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        if visit is None:
            raise UsageError(
                "scaat-amortised", "needs to know which patches it sees", "give visit="
            )
        eps = self.scaat.eps_now
        images = images.detach().float()
        if self.options.lam == 0 or eps == 0:
            return self.plain_step(images, labels, backward)
        clean = self._choose_clean(visit, len(images))
        shown = images.clone()
        seen = torch.nonzero(~clean)[:, 0]
        seen_device = seen.to(images.device, non_blocking=True)
        fresh = torch.nonzero(clean)[:, 0]
        fresh_device = fresh.to(images.device, non_blocking=True)
        reference = None
        if len(seen):
            part = Visit(visit.index[seen], visit.orientation[seen])
            direction, reference = self.store.read(part.index, images.device)
            direction = orient(direction, part.orientation)
            noise = self.uniform(direction)
            relative = (noise + self.options.step_size * direction).clamp_(-1, 1)
            relative = torch.where(
                (direction != 0).any(dim=1, keepdim=True), relative, torch.zeros_like(relative)
            )
            shown[seen_device] = (shown[seen_device] + eps * relative).clamp_(0, 1)
        shown.requires_grad_()
        logits = self.forward(shown)
        per_image = self.objective.per_image(logits, labels)
        total = per_image.mean()
        robust = torch.zeros_like(total)
        if reference is not None:
            robust = self.objective.divergence(reference, logits[seen_device]).sum() / len(images)
            total = total + self.options.lam * robust
        backward(total, True)
        if shown.grad is not None and len(fresh):
            self._record(images, labels, shown.grad, logits.detach(), visit, fresh, fresh_device)
        return StepLosses(
            total.detach(), per_image.detach().mean(), robust.detach(), logits.detach(),
            shown.detach(),
        )  # fmt: skip

    @torch.no_grad()
    def _record(
        self,
        images: Tensor,
        labels: Tensor,
        gradient: Tensor,
        logits: Tensor,
        visit: Visit,
        fresh: Tensor,
        fresh_device: Tensor,
    ) -> None:
        own = gradient[fresh_device].float()
        budget = self.scaat.budget(
            images[fresh_device], labels[fresh_device], own, logits[fresh_device]
        )
        masked = own.sign() * (budget > 0)
        upright = orient(masked, visit.orientation[fresh], inverse=True)
        self.store.write(visit.index[fresh], upright, logits[fresh_device])
