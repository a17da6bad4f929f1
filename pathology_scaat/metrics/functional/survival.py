"""How well a risk orders patients by when the event came: Harrell's concordance index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROWS_AT_ONCE = 512


def concordance(
    risk: NDArray[np.floating],
    time: NDArray[np.floating],
    event: NDArray[np.bool_],
    weights: NDArray[np.floating] | None = None,
    groups: NDArray[np.integer] | None = None,
) -> Array:
    """Share of comparable pairs whose higher risk had the event earlier; equal risks count half.

    A pair is comparable where it is known who had the event first: the earlier time is that of an
    event, or the times are equal and one of the two is an event. Two events at one time are no
    pair (Harrell et al. 1996).

    Parameters
    ----------
    risk : (n,) float
        The larger the earlier the event is expected.
    time : (n,) float
    event : (n,) bool
        True where the event was seen.
    weights : (R, n) float, optional
        How often each patient counts, a row a resample.
    groups : (n,) int, optional
        Only patients of one group are a pair: risks of different models have no common zero.

    Returns
    -------
    (R,) float64
        0 to 1; NaN where no pair is comparable. One value where no weights are given.

    Examples
    --------
    >>> concordance(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.ones(3, bool))
    array([1.])
    """
    counts = np.ones((1, len(risk))) if weights is None else np.asarray(weights, np.float64)
    seen = np.asarray(event, bool)
    comparable, right = np.zeros(len(counts)), np.zeros(len(counts))
    for start in range(0, len(risk), ROWS_AT_ONCE):  # a pair's first: who had the event
        first = np.arange(start, min(start + ROWS_AT_ONCE, len(risk)))
        first = first[seen[first]]
        mine, others = time[first][:, None], time[None, :]
        pairs = (mine < others) | ((mine == others) & ~seen[None, :])
        if groups is not None:
            pairs &= groups[first][:, None] == groups[None, :]
        ahead = risk[first][:, None] - risk[None, :]
        good = pairs * (0.5 + 0.5 * np.sign(ahead))
        own = counts[:, first]
        comparable += (own * (counts @ pairs.T.astype(np.float64))).sum(axis=1)
        right += (own * (counts @ good.T)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(comparable > 0, right / comparable, np.nan)
