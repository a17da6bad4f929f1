"""Features and logits of whole slides, of any size: one batch of patches at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.model import BagModel


@torch.no_grad()
def encode(model: BagModel, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, F) float32 of batches of (n, P, P, 3) uint8 patches, on the model's device.

    Memory is that of one batch and of the features. Call it in evaluation mode.
    """
    parts = [model.encoder(to_float(patches)).float() for patches in batches]
    return torch.cat(parts) if parts else torch.zeros(0, model.head.score.in_features)


@torch.no_grad()
def bag_logits(model: BagModel, features: Tensor) -> NDArray[np.float32]:
    """Logits (K,) of one bag from its features (n, F)."""
    logits: NDArray[np.float32] = model.head(features).float().cpu().numpy()
    return logits
