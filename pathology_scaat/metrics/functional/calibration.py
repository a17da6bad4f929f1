"""Temperature and calibration: confidence must not decide which map looks more faithful."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_RANGE = (-4.0, 4.0)
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(logits: Tensor, labels: Tensor, iterations: int = 60) -> float:
    """Temperature T that minimises the cross-entropy of logits / T (Guo et al. 2017).

    The loss is convex in 1/T: a golden-section search over log T finds it without a step size.

    Parameters
    ----------
    logits : Tensor, (N, K)
        Of validation images.
    labels : Tensor, (N,) int64
    iterations : int

    Returns
    -------
    float
        1 where there is nothing to fit on; kept within 1/55 to 55.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[0.0, 4.0], [0.0, 4.0], [0.0, 4.0], [0.0, 4.0]])
    >>> round(fit_temperature(logits, torch.tensor([1, 1, 1, 0])), 2)
    3.64
    """
    if len(logits) == 0:
        return 1.0
    values = logits.double()

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(values / math.exp(log_t), labels))

    low, high = _LOG_RANGE
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    for _ in range(iterations):
        if loss_a <= loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - _GOLDEN * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + _GOLDEN * (high - low)
            loss_b = loss(b)
    return math.exp((low + high) / 2)


def expected_calibration_error(logits: Tensor, labels: Tensor, n_bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over equally wide bins (Naeini 2015).

    Examples
    --------
    >>> import torch
    >>> sure = torch.tensor([[0.0, 50.0], [0.0, 50.0]])
    >>> expected_calibration_error(sure, torch.tensor([1, 0]))
    0.5
    """
    if len(logits) == 0:
        return math.nan
    confidence, predicted = logits.double().softmax(1).max(1)
    right = (predicted == labels).double()
    bins = (confidence * n_bins).ceil().clamp(1, n_bins).long() - 1
    gap = torch.zeros(n_bins, dtype=torch.float64, device=logits.device)
    gap.index_add_(0, bins, right - confidence)
    return float(gap.abs().sum() / len(logits))
