r"""Additive heads: a bag's logits are the sum of what its patches contribute, to the last bit.

With weights :math:`a_{ik}` that sum to one over the bag and class scores
:math:`\psi_k(h_i)` of each patch's features, the logit is
:math:`z_k = \sum_i a_{ik}\,\psi_k(h_i)`, and :math:`a_{ik}\,\psi_k(h_i)` is the contribution of
patch *i* to class *k*: signed, one per class (Javed et al., NeurIPS 2022, arXiv 2206.01794). The
bias lies inside :math:`\psi`, so that nothing is left over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pathology_scaat.training.bags.config import BagHeadConfig


class BagHead(nn.Module):
    """Pooling and class scores over the features of a bag.

    Parameters
    ----------
    n_features : int
        Features of a patch.
    n_classes : int
    config : BagHeadConfig
        Pooling and its settings.
    """

    def __init__(self, n_features: int, n_classes: int, config: BagHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.n_classes = n_classes
        self.score = nn.Linear(n_features, n_classes)
        if config.pooling in ("gated", "attention"):
            self.attention = nn.Linear(n_features, config.attention_width)
            self.attention_out = nn.Linear(config.attention_width, 1, bias=False)
            # begin as mean pooling: no patch is favoured by chance, where the few that carry
            # the label could be lost before they are found
            nn.init.zeros_(self.attention_out.weight)
        if config.pooling == "gated":
            self.gate = nn.Linear(n_features, config.attention_width)

    def weights(self, features: Tensor) -> Tensor:
        """Weights of the patches, (..., n, K), summing to one over the bag for each class.

        Parameters
        ----------
        features : Tensor of shape (..., n, F)
        """
        pooling = self.config.pooling
        n = features.shape[-2]
        shape = (*features.shape[:-1], self.n_classes)
        if pooling == "mean":
            return features.new_full(shape, 1 / n)
        if pooling == "top":
            count = max(1, math.ceil(self.config.top_share * n))
            best = self.score(features).topk(count, dim=-2).indices
            return torch.zeros_like(features[..., :1].expand(shape)).scatter(-2, best, 1 / count)
        hidden = torch.tanh(self.attention(features))
        if pooling == "gated":
            hidden = hidden * torch.sigmoid(self.gate(features))
        shares: Tensor = self.attention_out(hidden).softmax(dim=-2)
        return shares.expand(shape)

    def contributions(self, features: Tensor) -> Tensor:
        """What each patch adds to each logit, (..., n, K)."""
        scores: Tensor = self.score(features)
        return self.weights(features) * scores

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., K) of bags of features (..., n, F)."""
        return self.contributions(features).sum(dim=-2)
