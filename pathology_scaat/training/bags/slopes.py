r"""The slide's slope by the features of its patches: the middle of explaining a slide exactly.

The logit of a slide depends on its pixels through the features of its patches alone. So its
gradient comes in three steps: features of all patches, without a graph; the gradient of the
score by these features, a small backward pass through the head; and then, batch by batch, the
gradient of :math:`\sum_i h(x_i) \cdot \partial z/\partial h_i` by the pixels, with the second
factor held fixed. By the chain rule that is the gradient of the slide's score itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pathology_scaat.scaat.target import Output, target_score
from pathology_scaat.training.bags.head import BagHead


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
        """Images (n, 3, P, P) in [0, 1] to the score of each, (n, 1)."""
        features: Tensor = self.encoder(images).float()
        return (features * self.slope).sum(dim=1, keepdim=True)


def slide_slopes(
    head: BagHead, features: Tensor, targets: Sequence[int], output: str
) -> list[Tensor]:
    """Gradient of the slide's score by each patch's features times the number of patches.

    So multiplied, slides of different size compare.

    Parameters
    ----------
    head : BagHead
    features : Tensor of shape (n, F)
    targets : sequence of int
        Classes; one slope (n, F) each comes back.
    output : str
        Score that is differentiated, as :func:`~pathology_scaat.scaat.target.target_score` has it.
    """
    with torch.enable_grad():
        leaf = features.detach().requires_grad_(True)
        logits = head(leaf)[None]
        found = []
        for number in targets:
            target = torch.tensor([number], device=logits.device)
            score = target_score(logits, target, cast(Output, output)).sum()
            (slope,) = torch.autograd.grad(score, [leaf], retain_graph=True)
            found.append(slope * len(slope))
    return found


def patch_probability(contributions: Tensor, temperature: float) -> Tensor:
    """What a slide would be given all of whose patches contribute as this one does, (n, K).

    ``contributions`` are (n, K), what each of the slide's n patches adds to its logits; each row of
    the result sums to 1.
    """
    return (contributions * (len(contributions) / temperature)).softmax(dim=1)
