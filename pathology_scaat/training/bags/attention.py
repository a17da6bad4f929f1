"""Attention that is finished on whole slides, after the network has learnt from small bags.

The network learns best where a step shows many slides with a few patches each. But few of such
small bags hold a patch that decides where the class fills little of its slides, so that attention
hardly learns to single it out among the thousands of a whole slide. So at the end features of all
training slides are computed once, and attention alone goes on learning, from as much of each
slide as there is. The encoder and the class scores of single patches stay as they are: what a
patch says by itself does not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.metrics.functional.calibration import fit_temperature, smoothed_losses
from pathology_scaat.scaat.objective import Objective
from pathology_scaat.training.bags.head import BagHead

SLIDES_PER_STEP = 8
SHARE_OF_SLIDE = 0.5
"""Of the patches that a step shows of a slide: other ones each time, against overfitting."""
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2


def has_attention(head: BagHead) -> bool:
    """Whether the head's pooling learns which patches count."""
    return hasattr(head, "attention")


def finish_attention(
    head: BagHead,
    features: Sequence[Tensor],
    labels: NDArray[np.int64],
    objective: Objective,
    *,
    steps: int,
    seed: int,
    balanced: bool = False,
) -> None:
    """Train the attention of a head on features of whole slides; its class scores stay.

    Parameters
    ----------
    head : BagHead
        Changed in place; left in the mode it is in.
    features : sequence of Tensor of shape (n_i, F)
        Of each training slide (or case), on any device.
    labels : (n,) int64
        Class of each.
    objective : Objective
        What end-to-end training minimised.
    steps : int
        Steps of eight slides; the learning rate falls to 0 over them. 0 changes nothing.
    seed : int
        Decides which slides and patches a step shows.
    balanced : bool
        Draw each class equally often.
    """
    if steps < 1 or not has_attention(head):
        return
    parts = [head.attention, head.attention_out, *([head.gate] if hasattr(head, "gate") else [])]
    weights = [p for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    device = weights[0].device
    targets = torch.from_numpy(labels)
    share = np.ones(len(labels))
    if balanced:
        share = 1 / np.bincount(labels)[labels]
    share = share / share.sum()
    rng = np.random.default_rng([seed, 7])
    count = min(SLIDES_PER_STEP, len(labels))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        bags = rng.choice(len(labels), count, replace=balanced, p=share)
        logits = []
        for bag in bags:
            mine = features[bag]
            shown = rng.permutation(len(mine))[: max(1, round(SHARE_OF_SLIDE * len(mine)))]
            logits.append(head(mine[torch.from_numpy(shown)].to(device).float()))
        losses = objective.per_image(torch.stack(logits), targets[bags].to(device))
        # by autograd.grad: gradients of the scores, which stay, are not even computed
        found = torch.autograd.grad(losses.mean(), weights)
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = gradient
        optimizer.step()
    for weight in weights:
        weight.grad = None


def losses_of_slides(
    logits: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Loss of each slide at the temperature that suits them all best, in nats, (n,) float64.

    Logits are (n, K), labels (n,); see :func:`.calibration.smoothed_losses`.
    """
    if len(np.unique(labels)) < 2:
        return smoothed_losses(logits, labels)
    return smoothed_losses(logits / fit_temperature(logits, labels, smoothed=True), labels)


def surely_worse(losses: NDArray[np.float64], than: NDArray[np.float64]) -> bool:
    """Whether losses of the same slides are larger by more than one standard error in the mean.

    The one-standard-error rule (Breiman et al. 1984, *Classification and Regression Trees*):
    among a few validation slides the smallest of many losses is small by chance.

    Parameters
    ----------
    losses, than : (n,) float64
        Paired by slide; nothing is sure of fewer than two.

    Examples
    --------
    >>> one = np.array([0.7, 0.6, 0.8, 0.7])
    >>> surely_worse(one + [0.1, -0.1, 0.1, -0.1], one), surely_worse(one + 0.3, one)
    (False, True)
    """
    if len(losses) < 2:
        return False
    more = losses - than
    return bool(more.mean() > more.std(ddof=1) / np.sqrt(len(more)))
