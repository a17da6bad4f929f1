"""Are the images what a method takes for granted: floats from 0 to 1?

Everything here is said in those units: budgets, steps, the clipping after a perturbation. Images
that were normalised before, or run from 0 to 255, would be clipped to something else without a
word, and the training would go on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pathology_scaat.errors import UsageError

TOLERANCE = 1e-3
"""What rounding and interpolation may leave beyond 0 and 1."""

LOOK_EVERY = 50
"""On a GPU looking at a number waits for all work before it: the extremes of the batches between
are kept on the device and looked at together."""


class RangeCheck:
    """Refuses images that are not floats in [0, 1]; every batch is looked at.

    On a CPU at once. Elsewhere the first batch at once, and the others within
    :data:`LOOK_EVERY` batches.
    """

    def __init__(self) -> None:
        self._extremes: Tensor | None = None
        self._unseen = 0
        self._begun = False

    def __call__(self, images: Tensor) -> None:
        """Look at a batch.

        Raises
        ------
        UsageError
            If it is not (B, C, H, W) float, or a value is not a number from 0 to 1.
        """
        if images.ndim != 4 or not images.is_floating_point():
            shape = tuple(images.shape)
            kind = str(images.dtype).removeprefix("torch.")
            raise UsageError(
                "images", f"are {shape} {kind}", "give (B, C, H, W) float images from 0 to 1"
            )
        if images.numel() == 0:
            return
        with torch.no_grad():
            low, high = images.detach().aminmax()  # both NaN where any value is
            new = torch.stack([low.float(), -high.float()])
            kept = self._extremes
            # Another device: what was kept there is looked at here.
            if kept is not None and kept.device != new.device:
                kept = kept.to(new.device)
            self._extremes = new if kept is None else torch.minimum(kept, new)
        self._unseen += 1
        if images.device.type == "cpu" or not self._begun or self._unseen >= LOOK_EVERY:
            self._look()

    def _look(self) -> None:
        if self._extremes is None:
            return
        low, high = self._extremes.tolist()
        self._extremes, self._unseen, self._begun = None, 0, True
        if not (low >= -TOLERANCE and -high <= 1 + TOLERANCE):  # false for NaN too
            raise UsageError(
                "images",
                f"hold values from {low:g} to {-high:g}",
                "give floats from 0 to 1; normalisation belongs inside the model",
            )
