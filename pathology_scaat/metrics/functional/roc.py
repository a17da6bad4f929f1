"""Area under the ROC curve, and how much each item adds to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathology_scaat.errors import UsageError


def placements(scores: ArrayLike, positive: ArrayLike) -> NDArray[np.float64]:
    """Of each item, the share of the other class's items that it is ranked rightly against.

    Their mean over the positive items is the AUC, and so is that over the negative ones; their
    spread is what the AUC's standard error is made of (DeLong et al. 1988).

    Parameters
    ----------
    scores : (N,)
        The higher, the more likely positive.
    positive : (N,) bool

    Returns
    -------
    ndarray, (N,), float64
        0 to 1, ties counted half; NaN where there are items of one class only.

    Raises
    ------
    UsageError
        If there are not as many labels as scores.

    Examples
    --------
    >>> placements([0.1, 0.8, 0.4, 0.4], [False, True, True, False])
    array([1.  , 1.  , 0.75, 0.75])
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    truth = np.asarray(positive, dtype=bool).ravel()
    if values.size != truth.size:
        raise UsageError(
            "the labels", f"are {truth.size} for {values.size} scores", "give one a score"
        )
    found = np.full(values.size, math.nan)
    ups, downs = np.sort(values[truth]), np.sort(values[~truth])
    if ups.size == 0 or downs.size == 0:
        return found
    below = np.searchsorted(downs, values[truth], "left")
    not_above = np.searchsorted(downs, values[truth], "right")
    found[truth] = (below + not_above) / (2 * downs.size)
    below = np.searchsorted(ups, values[~truth], "left")
    not_above = np.searchsorted(ups, values[~truth], "right")
    found[~truth] = 1 - (below + not_above) / (2 * ups.size)
    return found


def roc_auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half (Mann and Whitney); NaN with one class only.

    Examples
    --------
    >>> roc_auc([0.1, 0.8, 0.4, 0.4], [False, True, True, False])
    0.875
    """
    truth: NDArray[Any] = np.asarray(positive, dtype=bool).ravel()
    found = placements(scores, truth)[truth]
    return float(found.mean()) if found.size else math.nan
