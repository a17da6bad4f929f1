"""Explaining a whole slide exactly, at any size, in the memory of one batch.

How: :mod:`pathology_scaat.training.bags.slopes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import attribute_with_logits
from pathology_scaat.saliency.batch_explainer import BatchExplainer, average
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.saliency.device_copies import Fetched, Pending
from pathology_scaat.saliency.schema import CONTRIBUTION_ARRAY
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.slopes import SlopedEncoder, patch_probability, slide_slopes
from pathology_scaat.training.feature_reference import FeatureReference
from pathology_scaat.training.looks import look_statistics

BATCH = 64
"""Patches at once where nothing else is set."""


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
    features : FeatureReference, optional
        Given it, a call also returns how unlike the training patches are, after the probability.
    """

    def __init__(
        self,
        model: BagModel,
        target_index: int | Sequence[int],
        config: ExplainConfig,
        device: torch.device,
        temperature: float = 1.0,
        features: FeatureReference | None = None,
    ) -> None:
        self.sloped = SlopedEncoder(model.encoder)
        super().__init__(
            self.sloped, target_index, config, device, temperature=temperature, features=features
        )
        self.bag_model = model
        self._unlike: NDArray[np.float32] | None = None
        self._probability: NDArray[np.float32] = np.zeros((0, model.head.n_classes), np.float32)
        self._slopes: list[Tensor] = []

    def look(
        self, batches: Iterable[NDArray[np.uint8]], others: Iterable[NDArray[np.uint8]] = ()
    ) -> dict[str, NDArray[np.float32]]:
        """See all patches once, (n, P, P, 3) uint8 at a time, without explaining any.

        Parameters
        ----------
        batches : iterable of (n, P, P, 3) uint8
            The slide's patches.
        others : iterable of (n, P, P, 3) uint8
            Those of the other slides of its case, where the model's bags are cases: the score is
            the case's then, and of these patches only the features are kept, until it is known.

        Returns
        -------
        dict
            What each patch of the slide contributes to the logits, (N, K).
        """
        parts = [self._features(patches) for patches in batches]
        if not parts:
            return {CONTRIBUTION_ARRAY: self._probability}
        features = torch.cat([part for part, _ in parts])
        looks = torch.cat([part for _, part in parts])
        parts.clear()  # the features are held once, not twice
        if self.features is not None:
            self._unlike = self.features.percentile(features.cpu().numpy(), looks.cpu().numpy())
        n_own = len(features)
        bag = torch.cat([features, *(self._features(patches)[0] for patches in others)])
        with torch.no_grad():
            contributions = self.bag_model.head.contributions(bag)
        chance = patch_probability(contributions, self.temperature)
        self._probability = chance[:n_own].cpu().numpy()
        slopes = slide_slopes(self.bag_model.head, bag, self.targets, self.config.output)
        self._slopes = [slope[:n_own] for slope in slopes]
        return {CONTRIBUTION_ARRAY: contributions[:n_own].cpu().numpy()}

    @torch.no_grad()
    def _features(self, patches: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Features (n, F) and looks (n, L) of patches."""
        found: list[Tensor] = []
        looks: list[Tensor] = []
        start = 0
        while start < len(patches):
            part = patches[start : start + (self.at_once or len(patches))]
            try:
                images = self.to_device(part)
                found.append(self.bag_model.encoder(images).float())
                looks.append(look_statistics(images))
                start += len(part)
            except torch.cuda.OutOfMemoryError:
                self._take_fewer(part)
        return torch.cat(found), torch.cat(looks)

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
                n_masks=self.config.n_masks,
                square_px=self.config.square_px,
                seed=self.config.seed,
                index=range(mine.start, mine.stop),
            )
            found.append(average(maps, self.config.stride_px))
        probability = self._probability[mine]
        odd = () if self._unlike is None else (self._unlike[mine],)

        def finish(values: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
            return (values[0], probability, *odd, *values[1:])

        return Pending(Fetched(found), finish, patches)
