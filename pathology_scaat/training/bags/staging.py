"""A training method in two stages: plain at first, then as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pathology_scaat.scaat.method import Backward, Method, StepLosses, Visit, plain_backward


class Staged(Method):
    """Plain steps up to ``start``, then those of another method, whose own schedule begins there.

    An adversary attacks what is not salient yet. In bag learning that is, at first, the very
    patches that carry the label: begun too early it keeps the model from finding them.

    Parameters
    ----------
    method : Method
        What the second stage does.
    start : float
        Share of training, 0 to 1, that is plain.
    """

    name = "staged"

    def __init__(self, method: Method, start: float) -> None:
        super().__init__(
            method.model, objective=method.objective, autocast_dtype=method.autocast_dtype
        )
        self.method = method
        self.start = start
        self.progress = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the next step belongs to the first stage."""
        return self.progress <= self.start

    @property
    def eps_now(self) -> float:
        """The budget of the next step, 0 in the first stage."""
        return 0.0 if self.is_plain else float(getattr(self.method, "eps_now", 0.0))

    @property
    def options(self) -> Any:
        """Options of the second stage's method, None where it has none."""
        return getattr(self.method, "options", None)

    def start_epoch(self, seed: int) -> None:
        self.method.start_epoch(seed)

    def set_progress(self, fraction: float) -> None:
        super().set_progress(fraction)
        rest = max(1.0 - self.start, 1e-12)
        self.method.set_progress(min(max((fraction - self.start) / rest, 0.0), 1.0))

    def after_update(self) -> None:
        self.method.after_update()

    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state)

    def training_step(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        visit: Visit | None = None,
        backward: Backward = plain_backward,
    ) -> StepLosses:
        if self.is_plain:
            return self.plain_step(images, labels, backward)
        return self.method.training_step(images, labels, visit=visit, backward=backward)
