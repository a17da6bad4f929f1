"""Explaining a batch of patches on a device, as many at once as its memory holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import attribute_with_logits
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.training.feature_reference import FeatureReference, penultimate

if TYPE_CHECKING:
    pass


logger = logging.getLogger(__name__)


def _average(maps: Tensor, stride_px: int) -> Tensor:
    return F.avg_pool2d(maps[:, None], stride_px)[:, 0] if stride_px > 1 else maps


class BatchExplainer:
    """Explains patches on a device, as many at once as its memory holds.

    Parameters
    ----------
    model : nn.Module
    target_index : int or sequence of int
        Class that is explained, or several: the maps of the first come first, those of the
        others last.
    config : ExplainConfig
    device : torch.device
    multi_label : bool
        Probability is each class's sigmoid instead of the softmax over the classes.
    temperature : float
        Logits are divided by it before they become probabilities.
    features : FeatureReference, optional
        Given it, a call also tells how unlike the training patches are, after the probability.

    Attributes
    ----------
    at_once : int or None
        Patches that go to the device together; halved, and kept so, where its memory is short.
    """

    def __init__(
        self,
        model: nn.Module,
        target_index: int | Sequence[int],
        config: ExplainConfig,
        device: torch.device,
        multi_label: bool = False,
        *,
        temperature: float = 1.0,
        features: FeatureReference | None = None,
    ) -> None:
        self.model = model
        self.targets = [target_index] if isinstance(target_index, int) else list(target_index)
        self.temperature = temperature
        self.features = features
        self.config = config
        self.device = device
        self.multi_label = multi_label
        self.at_once: int | None = None

    def look(self, batches: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See the whole slide before any of it is explained, if need be: not under this model.

        Returns
        -------
        dict
            Columns that the saliency store gets besides, (N, ...) by name.
        """
        return {}

    def __call__(
        self, patches: NDArray[np.uint8], first: int = 0
    ) -> tuple[NDArray[np.float32], ...]:
        """Saliency (n, h, h) and probability (n, K) of (n, P, P, 3) uint8 patches.

        Then, where asked for: percentiles (n,) of how unlike the training patches they are;
        saliency (n, h, h) for each further class.

        ``first`` is the number of the first patch in the slide: SmoothGrad's noise is a patch's
        own, so that maps do not depend on how many are explained at once.

        Raises
        ------
        UsageError
            If the GPU's memory does not hold a single patch.
        """
        parts = []
        start = 0
        while start < len(patches):
            part = patches[start : start + (self.at_once or len(patches))]
            found = self._try(part, first + start)
            if found is None:
                self._take_fewer(part)
            else:
                parts.append(found)
                start += len(part)
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(same) for same in zip(*parts, strict=True))

    def _try(
        self, patches: NDArray[np.uint8], first: int
    ) -> tuple[NDArray[np.float32], ...] | None:
        """None where memory is short; the error ends here, for it holds what had been made."""
        try:
            return self._explain(patches, first)
        except torch.cuda.OutOfMemoryError:
            return None

    def _take_fewer(self, patches: NDArray[np.uint8]) -> None:
        torch.cuda.empty_cache()
        if len(patches) == 1:
            raise UsageError(
                "the GPU",
                f"has too little memory free for one patch of {patches.shape[1]} px",
                "close what else runs on it, or use --device cpu",
            )
        self.at_once = len(patches) // 2
        logger.warning("GPU memory is short: explaining %d patches at a time", self.at_once)

    def _explain(self, patches: NDArray[np.uint8], first: int) -> tuple[NDArray[np.float32], ...]:
        config = self.config
        pixels = torch.from_numpy(patches).to(self.device, non_blocking=True)
        images = pixels.permute(0, 3, 1, 2).float().div_(255)
        mixed = (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if config.precision == "bfloat16"
            else nullcontext()
        )
        found = []
        with mixed, penultimate(self.model) as features:
            for target in self.targets:
                maps, logits = attribute_with_logits(
                    self.model,
                    images,
                    target,
                    config.method,
                    config.output,
                    n_samples=config.n_samples,
                    noise_std=config.noise_std,
                    seed=config.seed,
                    index=range(first, first + len(patches)),
                )
                found.append(_average(maps, config.stride_px).cpu().numpy())
        if logits.shape[1] == 1 and not self.multi_label:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        logits = logits / self.temperature
        probability = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        values = [found[0], probability.cpu().numpy().astype(np.float32)]
        if self.features is not None:
            # the last pass of every method is of the patches as they are
            values.append(self.features.percentile(features[-1].cpu().numpy()))
        return (*values, *found[1:])
