"""SCAAT: adversarial training constrained to what the saliency map leaves aside.

One step (defaults)::

    z   = f(x);  L0 = mean CE(z, y);  backward        -> dL0/dtheta and g = dL0/dx at once
    s   = max_c |g|, 3x3 mean;  budget = eps (1 - s/s_k) below the median s_k, 0 elsewhere
    x~  = clip(x + budget * clip(u + 1.25 sign(g), -1, 1), 0, 1),   u ~ U(-1, 1)
    L1  = lam * mean KL(softmax(z) || softmax(f(x~))); backward, z held fixed

Since the gradient of the cross-entropy gives the ranking and the direction, and its backward
pass is needed anyway, the step costs two forward-backward pairs: 2.0 plain steps. To first order
``CE(x~) = CE(x) + sum_i budget_i |g_i|``: a weighted L1 penalty on the small input gradients
without double backward. The direction must come from the cross-entropy, because the divergence's
gradient is exactly zero at x.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.attribution import EmaTeacher, grad_cam, smoothgrad
from pathology_scaat.scaat.batch_norm import batch_norm_policy
from pathology_scaat.scaat.budget import pixel_budget, pixel_saliency, tissue_region
from pathology_scaat.scaat.colour import apply_change, filled
from pathology_scaat.scaat.feature_attack import feature_loss, feature_step, layer_named
from pathology_scaat.scaat.grid import Cell, network_cell, on_grid
from pathology_scaat.scaat.method import Backward, Method, StepLosses, Visit
from pathology_scaat.scaat.objective import Objective
from pathology_scaat.scaat.options import ScaatOptions
from pathology_scaat.scaat.schedule import Schedule

SHARED_SOURCES = ("gradient", "gradient-input")


class SCAAT(Method):
    """Saliency-constrained adaptive adversarial training for any classifier.

    Parameters
    ----------
    model : nn.Module
        Maps (B, C, H, W) float images in [0, 1] to (B, K) logits; normalisation is inside.
    eps : float, optional
        Largest change of a channel in [0, 1] units.
    options : ScaatOptions, optional
        All settings at once; single ones may be given as keywords instead or on top.
    objective, seed, autocast_dtype
        See :class:`~pathology_scaat.scaat.method.Method`.
    **overrides
        Fields of :class:`ScaatOptions`.

    Raises
    ------
    UsageError
        If an option is unknown or out of range.

    Examples
    --------
    >>> import torch
    >>> from pathology_scaat.scaat import SCAAT
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    >>> scaat = SCAAT(model, eps=16 / 255, mask_ratio=0.5)
    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
    >>> x_adv = scaat.perturb(images, labels)
    >>> bool((x_adv - images).abs().max() <= 16 / 255 + 1e-6)
    True
    >>> losses = scaat.training_step(images, labels)  # gradients are now in the parameters
    """

    name = "scaat"

    def __init__(
        self,
        model: nn.Module,
        eps: float | None = None,
        *,
        options: ScaatOptions | None = None,
        objective: Objective | None = None,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__(model, objective=objective, seed=seed, autocast_dtype=autocast_dtype)
        if eps is not None:
            overrides["eps"] = eps
        base = dataclasses.asdict(options) if options is not None else {}
        self.options = ScaatOptions.from_dict({**base, **overrides})
        self._cell: Cell | None = None
        layer = self.options.layer
        self._layer = None if layer is None else layer_named(model, layer)
        self.teacher = (
            EmaTeacher(self, self.options.teacher_decay)
            if self.options.saliency == "ema-teacher"
            else None
        )

    # -- schedules and state
    @property
    def schedule(self) -> Schedule:
        return Schedule(self.options.start, self.options.warmup)

    @property
    def eps_now(self) -> float:
        """eps of the next step: 0 before ``start``, then growing over the warm-up."""
        return self.options.eps * self.schedule.strength(self.progress)

    @property
    def ever_acts(self) -> bool:
        return super().ever_acts and self.options.are_felt

    @property
    def is_active(self) -> bool:
        """Whether the next step perturbs anything."""
        return self._is_active_at(self.steps_done)

    def _is_active_at(self, step: int) -> bool:
        due = step % self.options.every == 0
        harmless = self.options.fill == "perturb" and self.eps_now == 0
        return self.options.lam > 0 and due and not harmless and not self.is_plain

    def after_update(self) -> None:
        if self.teacher is not None:
            self.teacher.follow()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.teacher is not None:
            state["teacher"] = self.teacher.model.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.teacher is not None:
            self.teacher.model.load_state_dict(state["teacher"])

    # -- for people with their own loop
    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """Perturbed images for the model as it is, (B, C, H, W) in [0, 1], detached.

        Costs one forward and one input backward (more for other saliency sources). Gradients in
        the parameters and BatchNorm's running statistics stay as they are. ``every`` does not
        count here: each call perturbs.

        Raises
        ------
        UsageError
            If the images are not floats in [0, 1], or ``layer`` has the change made elsewhere.
        """
        if self._layer is not None:
            raise UsageError(
                "layer", "the change is made inside the network, no image has it",
                "use training_step or loss, or set layer to nothing",
            )  # fmt: skip
        self.check_images(images)
        images = images.detach().float()
        noise = None if self.options.random_start == "none" else self.uniform(images)
        x = images
        if noise is not None and self.options.random_start == "before":
            x = apply_change(images, noise * self.eps_now, self.options.colour_space)
        logits = None
        if self.options.sample_scale != "none":
            with torch.no_grad(), batch_norm_policy(self.model, "clean"):
                logits = self.forward(images)
        return self._perturbed(images, labels, self.input_gradient(x, labels), logits, noise)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """:meth:`perturb`, called as torchattacks' attacks are."""
        return self.perturb(images, labels)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Differentiable total loss, a scalar; call ``backward`` on it yourself.

        Each call is a step, as ``every`` counts them. Without the shared backward it costs 8/3 of
        a plain step instead of 2.

        Raises
        ------
        UsageError
            If the images are not floats in [0, 1].
        """
        self.check_images(images)
        n = self._n_perturbed(images)
        active = self.is_active and n > 0
        self.steps_done += 1
        if not active:
            return self.objective.per_image(self.forward(images), labels).mean()
        if self._layer is not None:
            return feature_loss(self, images, labels, n, self._layer)
        return self._joint_losses(images, labels, n)[0]

    # -- the shared-backward step
    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        options, n = self.options, self._n_perturbed(images)
        if n == 0 or not self._is_active_at(self.steps_done - 1):
            return self.plain_step(images, labels, backward)
        if not options.stop_gradient:
            return self._joint_step(images, labels, n, backward)
        if self._layer is not None:
            return feature_step(self, images, labels, n, self._layer, backward)
        shared = options.saliency in SHARED_SOURCES and options.random_start != "before"
        x = images.detach().float()
        separate = None if shared else self.perturb(x[:n], labels[:n])
        if shared:
            x.requires_grad_()
        logits = self.forward(x)
        clean = self.objective.per_image(logits, labels).mean()
        backward(clean, False)
        # their graph would keep x, and with it x.grad, through the second pass
        logits, clean = logits.detach(), clean.detach()
        if separate is None:
            inputs = x.detach()[:n]
            # the batch loss is a mean: times B gives each image's own gradient back
            gradient = torch.zeros_like(x) if x.grad is None else x.grad.mul_(len(x))
            noise = None if options.random_start == "none" else self.uniform(inputs)
            perturbed = self._perturbed(inputs, labels[:n], gradient[:n], logits[:n], noise)
            del gradient, noise, inputs, x  # nothing of the first pass outlives it
        else:
            perturbed = separate
        robust = self.robust_loss(logits[:n], perturbed, labels[:n]) * (n / len(images))
        kept = perturbed if self.keep_perturbed else None
        del perturbed, separate
        backward(options.lam * robust, True)
        robust = robust.detach()
        return StepLosses(clean + options.lam * robust, clean, robust, logits, kept)

    def _n_perturbed(self, images: Tensor) -> int:
        return math.ceil(self.options.batch_share * len(images))

    def _joint_losses(
        self, images: Tensor, labels: Tensor, n: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Total, clean and robust loss in one graph, logits, and the first n images perturbed."""
        perturbed = self.perturb(images[:n], labels[:n])
        logits = self.forward(images)
        clean = self.objective.per_image(logits, labels).mean()
        robust = self.robust_loss(logits[:n], perturbed, labels[:n]) * (n / len(images))
        return clean + self.options.lam * robust, clean, robust, logits, perturbed

    def _joint_step(self, images: Tensor, labels: Tensor, n: int, backward: Backward) -> StepLosses:
        """Both terms in one graph: the clean prediction is pulled towards the perturbed one too."""
        total, clean, robust, logits, perturbed = self._joint_losses(images, labels, n)
        kept = perturbed if self.keep_perturbed else None
        del perturbed
        backward(total, True)
        return StepLosses(total.detach(), clean.detach(), robust.detach(), logits.detach(), kept)

    # -- parts
    def robust_loss(self, clean_logits: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """Loss of the perturbed images as ``options.loss`` says: a scalar, not yet times ``lam``.

        Parameters
        ----------
        clean_logits : Tensor of shape (B, K)
            Of the images as they are; held fixed with ``stop_gradient``.
        perturbed : Tensor of shape (B, C, H, W)
            In [0, 1].
        labels : Tensor
            As the objective wants them; only ``"ce"`` looks at them.
        """
        with batch_norm_policy(self.model, self.options.batch_norm):
            logits = self.forward(perturbed)
        reference = clean_logits.detach() if self.options.stop_gradient else clean_logits
        if self.options.loss == "ce":
            return self.objective.per_image(logits, labels).mean()
        if self.options.loss == "mse":
            return F.mse_loss(logits, reference)
        return self.objective.divergence(reference, logits).mean()

    def _saliency(self, images: Tensor, labels: Tensor, gradient: Tensor) -> Tensor:
        source = self.options.saliency
        if source == "gradient-input":
            attribution = gradient * images
        elif source == "smoothgrad":
            attribution = smoothgrad(
                self, images, labels, self.options.smoothgrad_samples, self.options.smoothgrad_sigma
            )
        elif source == "gradcam":
            return grad_cam(self, images, labels)
        elif self.teacher is not None:
            attribution = self.teacher.input_gradient(images, labels)
        else:
            attribution = gradient
        on_cells = self.options.grid == "network"
        return pixel_saliency(attribution, 1 if on_cells else self.options.smooth_px)

    def budget(
        self, images: Tensor, labels: Tensor, gradient: Tensor, logits: Tensor | None
    ) -> Tensor:
        """How far each pixel may go, (B, 1, H, W), from 0 to eps.

        In [0, 1] units, or in optical density where ``colour_space`` says so.

        ``gradient``, (B, C, H, W), is that of each image's own loss by that image; ``logits`` (B,
        K) are needed where ``sample_scale`` is set.
        """
        options = self.options
        generator = self.generator(images.device)
        region = (
            tissue_region(images, options.tissue_threshold) if options.region == "tissue" else None
        )
        saliency = self._saliency(images, labels, gradient)

        def shares(ranked: Tensor, inside: Tensor | None) -> Tensor:
            return pixel_budget(ranked, options, region=inside, generator=generator)

        if options.grid == "network":
            share = on_grid(shares, saliency, region, self._grid_cell(images))
        else:
            share = shares(saliency, region)
        if options.unmasked_share > 0:
            draw = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device)
            everywhere = draw < options.unmasked_share
            everywhere = everywhere if region is None else everywhere & region
            share = torch.where(everywhere, torch.ones_like(share), share)
        budget = share * self.eps_now
        if options.sample_scale != "none" and logits is not None:
            budget = budget * self.sample_scale_of(logits, labels, gradient, budget)
        return budget

    def _grid_cell(self, images: Tensor) -> Cell:
        """The network's cell; it hangs on the network alone and is found once."""
        if self._cell is None:
            self._cell = network_cell(self.model, images)
        return self._cell

    def sample_scale_of(
        self, logits: Tensor, labels: Tensor, gradient: Tensor, budget: Tensor
    ) -> Tensor:
        """Factor on each image's budget, (B, 1, 1, 1) in [0, 1], as ``options.sample_scale`` says.

        Parameters
        ----------
        logits : Tensor of shape (B, K)
        labels : Tensor
            As the objective wants them.
        gradient : Tensor of shape (B, C, H, W)
            Of each image's own loss by what is changed; or (B, T, D) of tokens.
        budget : Tensor of shape (B, 1, H, W)
            What each position may change by; or (B, T, 1).

        Returns
        -------
        Tensor of shape (B, 1, 1, 1)
            With ``"confidence"`` the probability of the true label. Else what would bring that
            probability down to one half, to first order: 0 where it is below already.
        """
        confidence = self.objective.confidence(logits, labels)
        if self.options.sample_scale == "confidence":
            return confidence[:, None, None, None]
        loss = -confidence.clamp_min(1e-12).log()
        own = self.objective.per_image(logits, labels)
        gain = (budget * gradient.abs()).flatten(1).sum(dim=1) * loss / own.clamp_min(1e-12)
        return ((math.log(2) - loss) / gain.clamp_min(1e-12)).clamp(0, 1)[:, None, None, None]

    def attack_step(self, gradient: Tensor) -> Tensor:
        """Direction of the attack, (B, C, H, W), about -1 to 1 times the step size."""
        options = self.options
        device = gradient.device
        if options.direction == "gaussian":
            return torch.randn(gradient.shape, generator=self.generator(device), device=device)
        if options.direction == "random-sign":
            return self.uniform(gradient).sign_() * options.step_size
        sign = gradient.sign() * options.step_size
        return sign if options.colour_space == "rgb" else sign.neg_()

    @torch.no_grad()
    def _perturbed(
        self,
        images: Tensor,
        labels: Tensor,
        gradient: Tensor,
        logits: Tensor | None,
        noise: Tensor | None,
    ) -> Tensor:
        options = self.options
        gradient = gradient.float()
        budget = self.budget(images, labels, gradient, logits)
        if options.fill != "perturb":
            between = self.uniform(images) if options.fill == "random" else None
            return filled(images, budget > 0, between)
        relative = self.attack_step(gradient)
        if noise is not None:
            relative = relative.add_(noise)
        relative = relative.clamp_(-1, 1)
        perturbed = apply_change(images, relative * budget, options.colour_space)
        for _ in range(options.steps - 1):
            gradient = self.input_gradient(perturbed, labels)
            relative = (relative + self.attack_step(gradient)).clamp_(-1, 1)
            perturbed = apply_change(images, relative * budget, options.colour_space)
        return perturbed
