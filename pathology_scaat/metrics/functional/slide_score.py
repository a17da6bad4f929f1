"""A slide's score from what a model for patches says of its patches."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TOP_SHARE = 0.05
"""Share of a slide's patches that speak for it: tumour may be a small part of a slide."""

PATCH_RULE = (
    f"the mean probability of the {TOP_SHARE:.0%} of the patches that have most of the class (one "
    "at least): of two classes that of the positive one, of several each divided by their sum"
)


def top_mean(probability: NDArray[np.floating], positive: int | None = None) -> NDArray[np.float64]:
    """Scores (K,) of a slide from its patches' probabilities (N, K); they sum to one.

    With ``positive``, of two classes that exclude each other, the slide is scored by that class
    alone: normal tissue beside a tumour does not make a slide normal.

    Examples
    --------
    >>> top_mean(np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2]])).round(3)
    array([0.529, 0.471])
    >>> top_mean(np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2]]), positive=1).round(3)
    array([0.2, 0.8])
    """
    values = np.asarray(probability, np.float64)
    count = max(1, math.ceil(TOP_SHARE * len(values)))
    best = np.sort(values, axis=0)[-count:].mean(axis=0)
    if positive is not None and len(best) == 2:
        best[1 - positive] = 1 - best[positive]
    shares: NDArray[np.float64] = best / best.sum()
    return shares
