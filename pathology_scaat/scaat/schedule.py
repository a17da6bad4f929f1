"""When in a training a method acts: plain at first, then with a budget that grows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """What a method does at which share of the training; nothing but that share decides it.

    So a training that was interrupted and goes on does what an uninterrupted one does.

    Attributes
    ----------
    start : float
        Share of training, 0 to 1, whose steps are plain.
    warmup : float
        Share of what follows ``start``, 0 to 1, over which the budget grows linearly from 0.

    Examples
    --------
    >>> schedule = Schedule(start=0.5, warmup=0.5)
    >>> [schedule.strength(share) for share in (0.25, 0.5, 0.625, 0.75, 1.0)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """

    start: float = 0.0
    warmup: float = 0.0

    def is_plain(self, progress: float) -> bool:
        """Whether a step that ends at this share of training is a plain one."""
        return self.start > 0 and progress <= self.start

    def strength(self, progress: float) -> float:
        """Share of the whole budget at this share of training, 0 to 1."""
        if self.is_plain(progress):
            return 0.0
        if self.warmup <= 0:
            return 1.0
        over = (progress - self.start) / max(1.0 - self.start, 1e-12)
        return min(1.0, over / self.warmup)

    @property
    def settled_at(self) -> float:
        """Share of training, 0 to 1, from which on :meth:`strength` is 1: the full budget."""
        return self.start + self.warmup * (1.0 - self.start)
