"""The head itself: features in, contributions of patches and what they add up to out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.training.bags.config import BagHeadConfig
from pathology_scaat.training.bags.head import BagHead
from pathology_scaat.training.heads.config import Target
from pathology_scaat.training.heads.objectives import grade_log_probability


class FeatureHead(nn.Module):
    """An additive head over features of any scale: they are standardised by the training's own.

    Parameters
    ----------
    n_features : int
    target : Target
    config : BagHeadConfig

    Attributes
    ----------
    mean, std : Tensor of shape (F,)
        What features are standardised by; 0 and 1 until training sets them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, n_features: int, target: Target, config: BagHeadConfig) -> None:
        super().__init__()
        self.kind = target.kind
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.pool = BagHead(n_features, target.n_outputs, config)
        # begin by saying nothing: few bags cannot unlearn what chance put into many features
        nn.init.zeros_(self.pool.score.weight)
        nn.init.zeros_(self.pool.score.bias)
        if target.kind == "grades":
            # cuts between grades rise: the first, and the logarithm-like steps to the next
            self.first_cut = nn.Parameter(torch.tensor([-(len(target.names) - 2) / 2]))
            self.steps = nn.Parameter(torch.full((len(target.names) - 2,), 0.5413))  # softplus: 1

    @property
    def cuts(self) -> Tensor:
        """Scores (K - 1,) at which the next grade begins, rising."""
        steps = F.softplus(self.steps) + 1e-3
        return torch.cat([self.first_cut, self.first_cut + steps.cumsum(0)])

    def contributions(self, features: Tensor) -> Tensor:
        """What each patch adds to each output, (..., n, O), from features (..., n, F)."""
        return self.pool.contributions((features - self.mean) / self.std)

    def scores(self, features: Tensor) -> Tensor:
        """Sums of the contributions, (..., O): logits, the score of grades, or the log hazard."""
        return self.contributions(features).sum(dim=-2)

    def logits(self, scores: Tensor) -> Tensor:
        """What probabilities are made of, (B, K): logits, or log probabilities of grades.

        ``scores`` are (B, O), as :meth:`scores` gives them for each bag.
        """
        return grade_log_probability(scores[:, 0], self.cuts) if self.kind == "grades" else scores
