r"""Explaining a whole slide exactly, at any size, in the memory of one batch.

The logit of a slide depends on its pixels through the features of its patches alone. So its
gradient comes in three steps: features of all patches, without a graph; the gradient of the
score by these features, a small backward pass through the head; and then, batch by batch, the
gradient of :math:`\sum_i h(x_i) \cdot \partial z/\partial h_i` by the pixels, with the second
factor held fixed. By the chain rule that is the gradient of the slide's score itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import attribute_with_logits
from pathology_scaat.saliency.batch_explainer import BatchExplainer, average
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.saliency.device_copies import Fetched, Pending
from pathology_scaat.saliency.schema import CONTRIBUTION_ARRAY
from pathology_scaat.scaat.target import target_score
from pathology_scaat.training.bags.model import BagModel

BATCH = 64
"""Patches at once where nothing tells otherwise."""


class SlopedEncoder(nn.Module):
    """Patches to one score each: their features times the slide's slope by these features.

    Attributes
    ----------
    slope : Tensor of shape (n, F)
        Gradient of the slide's score by the features of the patches that come next.
    """

    slope: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, P, P) to (n, 1)."""
        features: Tensor = self.encoder(images).float()
        return (features * self.slope).sum(dim=1, keepdim=True)


class BagExplainer(BatchExplainer):
    """Explains the patches of one slide under a model for bags, in the slide's order.

    Saliency is the gradient of the slide's score by the pixels times the number of patches, so
    that slides of different size compare. Call :meth:`look` with all patches first.

    Parameters
    ----------
    model : BagModel
    target_index : int or sequence of int
        Class that is explained, or several: maps of the first come first, those of the others last.
    config : ExplainConfig
    device : torch.device
    temperature : float
        Of the model's calibration.
    """

    def __init__(
        self,
        model: BagModel,
        target_index: int | Sequence[int],
        config: ExplainConfig,
        device: torch.device,
        temperature: float = 1.0,
    ) -> None:
        self.sloped = SlopedEncoder(model.encoder)
        super().__init__(self.sloped, target_index, config, device)
        self.bag_model = model
        self.temperature = temperature
        self._probability: NDArray[np.float32] = np.zeros((0, model.head.n_classes), np.float32)
        self._slopes: list[Tensor] = []

    def look(self, batches: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See all patches once, (n, P, P, 3) uint8 at a time, without explaining any.

        Returns
        -------
        dict
            What each patch contributes to the slide's logits, (N, K).
        """
        parts = [self._features(patches) for patches in batches]
        if not parts:
            return {CONTRIBUTION_ARRAY: self._probability}
        features = torch.cat(parts)
        parts.clear()  # the features are held once, not twice
        with torch.no_grad():
            contributions = self.bag_model.head.contributions(features)
        self._probability = self._patch_probability(contributions).cpu().numpy()
        with torch.enable_grad():
            leaf = features.requires_grad_(True)
            logits = self.bag_model.head(leaf)[None]
            self._slopes = []
            for number in self.targets:
                target = torch.tensor([number], device=logits.device)
                score = target_score(logits, target, self.config.output).sum()
                (slope,) = torch.autograd.grad(score, [leaf], retain_graph=True)
                self._slopes.append(slope * len(slope))
        return {CONTRIBUTION_ARRAY: contributions.cpu().numpy()}

    def _patch_probability(self, contributions: Tensor) -> Tensor:
        """What a slide would be given all of whose patches contribute as this one does, (N, K)."""
        return (contributions * (len(contributions) / self.temperature)).softmax(dim=1)

    @torch.no_grad()
    def _features(self, patches: NDArray[np.uint8]) -> Tensor:
        found: list[Tensor] = []
        start = 0
        while start < len(patches):
            part = patches[start : start + (self.at_once or len(patches))]
            try:
                found.append(self.bag_model.encoder(self.to_device(part)).float())
                start += len(part)
            except torch.cuda.OutOfMemoryError:
                self._take_fewer(part)
        return torch.cat(found)

    def batch_size(self, side_px: int) -> int:
        """As configured; the slopes of a slide must be known before a batch can be tried."""
        return self.config.batch_size or BATCH

    def _explain(self, patches: NDArray[np.uint8], first: int) -> Pending:
        mine = slice(first, first + len(patches))
        if mine.stop > len(self._probability):
            raise UsageError("patches", "are more than were looked at", "look at all of them first")
        images = self.to_device(patches)
        found = []
        for slope in self._slopes:
            self.sloped.slope = slope[mine]
            maps, _ = attribute_with_logits(
                self.sloped,
                images,
                1,
                self.config.method,
                "logit",
                n_samples=self.config.n_samples,
                noise_std=self.config.noise_std,
                seed=self.config.seed,
                index=range(mine.start, mine.stop),
            )
            found.append(average(maps, self.config.stride_px))
        probability = self._probability[mine]

        def finish(values: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
            return (values[0], probability, *values[1:])

        return Pending(Fetched(found), finish, patches)
