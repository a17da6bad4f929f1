"""What heads are trained for: classes, grades in order, survival."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grade_log_probability(score: Tensor, cuts: Tensor) -> Tensor:
    """Log probabilities (B, K) of K grades from one score, by a proportional-odds model.

    The odds of a grade above *k* are ``exp(score - cuts[k])`` (McCullagh 1980).

    Parameters
    ----------
    score : Tensor of shape (B,)
    cuts : Tensor of shape (K - 1,)
        Rising.
    """
    above = score[:, None] - cuts[None, :]
    log_above, log_not = F.logsigmoid(above), F.logsigmoid(-above)
    first, last = log_not[:, :1], log_above[:, -1:]
    # P(k) = s(a[k-1]) - s(a[k]) = s(a[k-1]) s(-a[k]) (1 - exp(a[k] - a[k-1])), without cancellation
    gap = (cuts[1:] - cuts[:-1])[None, :].clamp_min(1e-6)
    middle = log_above[:, :-1] + log_not[:, 1:] + torch.log(-torch.expm1(-gap))
    return torch.cat([first, middle, last], dim=1)


def cox_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative log partial likelihood of a Cox model over one set of patients, a mean over events.

    Ties of event times by Efron's approximation (1977). The risk set of a time is all patients of
    this set whose time is not smaller.

    Parameters
    ----------
    risk : Tensor of shape (n,)
        Log hazards, the larger the earlier the event.
    time : Tensor of shape (n,)
    event : Tensor of shape (n,)
        1 where the event was seen, 0 where the patient was lost from sight.

    Returns
    -------
    Tensor
        Scalar; 0 (with a gradient of 0) where no event was seen.

    Examples
    --------
    >>> risk = torch.zeros(3)
    >>> float(cox_loss(risk, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0])))
    1.0986123085021973
    """
    seen = event > 0.5
    if not bool(seen.any()):
        return risk.sum() * 0.0
    total = risk[seen].sum()
    for moment in torch.unique(time[seen]):
        at_risk = torch.logsumexp(risk[time >= moment], dim=0)
        tied = risk[seen & (time == moment)]
        share = torch.arange(len(tied), device=risk.device, dtype=risk.dtype) / len(tied)
        of_tied = torch.logsumexp(tied, dim=0) - at_risk  # log of their part of the risk set, <= 0
        total = total - (at_risk + torch.log1p(-share * of_tied.exp())).sum()
    return -total / seen.sum()
