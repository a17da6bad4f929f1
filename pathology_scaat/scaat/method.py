"""What every training method has in common: one step, its losses, its random numbers."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.batch_norm import batch_norm_policy, frozen_parameters
from pathology_scaat.scaat.gradients import input_gradient
from pathology_scaat.scaat.image_range import RangeCheck
from pathology_scaat.scaat.objective import Objective, SingleLabelObjective
from pathology_scaat.scaat.schedule import Schedule

COMMON_OPTIONS = frozenset({"objective", "seed", "autocast_dtype"})
"""What a training gives every method; nobody chooses it among a method's options."""

Backward = Callable[[Tensor, bool], None]
"""Runs a backward pass; the flag says whether it is the last before the optimiser's step."""


def plain_backward(loss: Tensor, last: bool) -> None:
    """Accumulate gradients of a scalar loss; nothing needs to know which pass is the last."""
    loss.backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Visit:
    """Which patches a batch shows, and how they are turned.

    Attributes
    ----------
    index : Tensor of shape (B,)
        Number of each patch in the training set, int64 on the CPU.
    orientation : Tensor of shape (B,)
        Code 0 to 7 of the turn and flip applied to it, int64 on the CPU
        (:mod:`pathology_scaat.scaat.orientation`).
    """

    index: Tensor
    orientation: Tensor


@dataclass(frozen=True)
class StepLosses:
    """Detached results of a training step; scalars stay on the device until somebody looks.

    Attributes
    ----------
    total, clean, robust : Tensor
        Scalar losses: what was minimised, its clean part, its perturbed part before weighting.
    logits : Tensor of shape (B, K)
        Float32 predictions on the clean images (on the perturbed ones where the method never
        sees the clean ones).
    perturbed : Tensor or None
        The perturbed images, (B, C, H, W), where there are some and they are to be kept.
    """

    total: Tensor
    clean: Tensor
    robust: Tensor
    logits: Tensor
    perturbed: Tensor | None = None

    def __repr__(self) -> str:
        values = ", ".join(
            f"{n}={float(getattr(self, n)):.4g}" for n in ("total", "clean", "robust")
        )
        return f"StepLosses({values}, logits={tuple(self.logits.shape)})"


class Method(ABC):
    """A way to train a classifier on images in [0, 1].

    A method says in :meth:`_step` what one of its steps does; :meth:`training_step` calls it, but
    while :attr:`schedule` says that training is still plain.

    Parameters
    ----------
    model : nn.Module
        Maps (B, C, H, W) float images in [0, 1] to (B, K) logits; normalisation is inside.
    objective : Objective, optional
        What the logits are trained for; cross-entropy on integer labels by default.
    seed : int
        Seed of the method's own random numbers; the global generators are never drawn from.
    autocast_dtype : torch.dtype, optional
        Run forward passes under autocast (``torch.bfloat16``). Perturbed images are built in
        float32 all the same: bfloat16 steps by 1/256 near 1.
    **unknown
        Anything else is a :class:`UsageError`.

    Attributes
    ----------
    keep_perturbed : bool
        Whether a step gives the perturbed images back. A network that normalises inside does not
        need them once it has begun, so a training loop that does not look at them saves an image
        batch where memory is at its highest.
    """

    name: ClassVar[str] = ""
    keep_perturbed: bool = True

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: Objective | None = None,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise UsageError(
                "method options",
                f"unknown: {', '.join(sorted(unknown))}",
                f"known: {', '.join(self.own_options()) or 'none'}",
            )
        self.model = model
        self.objective = objective or SingleLabelObjective()
        self.autocast_dtype = autocast_dtype
        self.progress = 1.0
        self.steps_done = 0
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self.check_images = RangeCheck()

    def __repr__(self) -> str:
        options = getattr(self, "options", None)
        return f"{type(self).__name__}(model={type(self.model).__name__}, options={options})"

    @classmethod
    def own_options(cls) -> list[str]:
        """Names of the options of a method whose classes say them one by one."""
        makers = [vars(each)["__init__"] for each in cls.__mro__[:-1] if "__init__" in vars(each)]
        said = [inspect.signature(maker).parameters for maker in makers]
        named = {name for one in said for name, p in one.items() if p.kind is p.KEYWORD_ONLY}
        return sorted(named - COMMON_OPTIONS)

    # -- hooks of the training loop
    def start_epoch(self, seed: int) -> None:
        """Reseed, so that an epoch's random numbers depend on nothing before it."""
        self._seed = seed
        self._generators.clear()

    def set_progress(self, fraction: float) -> None:
        """Tell how much of the training is over after the next step, 0 to 1.

        Schedules depend on it. A loop that never calls this trains at full strength from the
        first step on.
        """
        self.progress = fraction

    @property
    def schedule(self) -> Schedule:
        """When the method acts; from the first step on and in full unless it says otherwise."""
        return Schedule()

    @property
    def ever_acts(self) -> bool:
        """Whether any step of a whole training can be another than a plain one."""
        return self.schedule.start < 1

    @property
    def is_plain(self) -> bool:
        """Whether the next step is a plain one because the method has not begun yet."""
        return self.schedule.is_plain(self.progress)

    def after_update(self) -> None:  # noqa: B027 - optional hook
        """Called after each optimiser step."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs beside the model: tensors and numbers."""
        return {"steps_done": self.steps_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps_done = int(state["steps_done"])

    # -- the step
    def training_step(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        visit: Visit | None = None,
        backward: Backward = plain_backward,
    ) -> StepLosses:
        """Accumulate the gradients of one batch into the model's parameters.

        Parameters
        ----------
        images : Tensor of shape (B, C, H, W)
            Float images in [0, 1].
        labels : Tensor
            As the objective wants them: (B,) int64, or (B, K) of 0 and 1 for several labels.
        visit : Visit, optional
            Identity and orientation of the patches; only amortised methods need it.
        backward : callable
            How to run a backward pass.

        Raises
        ------
        UsageError
            If the images are not floats in [0, 1] (on a GPU, of the first step or of one of the
            last 50).
        """
        self.check_images(images)
        self.steps_done += 1
        if self.is_plain:
            return self.plain_step(images, labels, backward)
        return self._step(images, labels, visit, backward)

    @abstractmethod
    def _step(
        self, images: Tensor, labels: Tensor, visit: Visit | None, backward: Backward
    ) -> StepLosses:
        """:meth:`training_step` of a method that has begun; ``steps_done`` counts it already."""

    # -- tools for methods
    def forward(self, images: Tensor) -> Tensor:
        """Float32 logits (B, K) of images (B, C, H, W) in [0, 1], under autocast where asked."""
        context: AbstractContextManager[object] = nullcontext()
        if self.autocast_dtype is not None:
            context = torch.autocast(images.device.type, dtype=self.autocast_dtype)
        with context:
            logits: Tensor = self.model(images)
        return logits.float()

    def generator(self, device: torch.device) -> torch.Generator:
        """This method's random numbers on a device."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def input_gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        """Gradient of the summed loss by the images alone, (B, C, H, W): one forward, one backward.

        BatchNorm's running statistics and the parameters' gradients are left as they are.
        """
        with frozen_parameters(self.model), batch_norm_policy(self.model, "clean"):
            gradient, _ = input_gradient(
                self.forward, images, lambda logits: self.objective.per_image(logits, labels)
            )
        return gradient

    def plain_step(self, images: Tensor, labels: Tensor, backward: Backward) -> StepLosses:
        """The step that every method falls back to where it has nothing to add.

        Images are (B, C, H, W) in [0, 1], labels as the objective wants them.
        """
        logits = self.forward(images)
        loss = self.objective.per_image(logits, labels).mean()
        backward(loss, True)
        clean = loss.detach()
        return StepLosses(clean, clean, torch.zeros_like(clean), logits.detach())

    def uniform(self, images: Tensor) -> Tensor:
        """Uniform numbers in [-1, 1) of the images' shape (B, C, H, W), or of any other."""
        noise = torch.rand(
            images.shape, generator=self.generator(images.device), device=images.device
        )
        return noise.mul_(2).sub_(1)
