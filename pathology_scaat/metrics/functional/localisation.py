"""How well a map's values rank the pixels of a mask: pure functions on numpy arrays.

Every score here depends on the *order* of the values alone, so that neither the scale of a
map nor a monotone sharpening of it changes the result. Chance is stated beside each score:
pixel average precision of an uninformative map is the share of positive pixels, AUROC is 0.5.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional.roc import roc_auc

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class SlideLocalisation:
    """Scores of one map against one mask; NaN where they are not defined.

    Attributes
    ----------
    pixel_ap : float
        Average precision of the map's values over the pixels, 0 to 1.
    chance : float
        Pixel average precision of an uninformative map: the share of mask pixels.
    auroc : float
        Area under the ROC curve over the pixels, 0 to 1; 0.5 is chance.
    n_px : int
        Pixels with a value (NaN pixels take no part).
    n_positive_px : int
        Pixels of the mask among them.
    """

    pixel_ap: float
    chance: float
    auroc: float
    n_px: int
    n_positive_px: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def _valid(values: FloatArray, mask: BoolArray) -> tuple[NDArray[np.float32], BoolArray]:
    values = np.asarray(values)
    mask = np.asarray(mask)
    if values.shape != mask.shape:
        raise UsageError(
            "mask",
            f"has shape {mask.shape} where the map has {values.shape}",
            "resample the mask to the map",
        )
    if mask.dtype != np.bool_:
        raise UsageError("mask", f"is {mask.dtype}, not bool", "threshold it first")
    present = ~np.isnan(values)
    return values[present].astype(np.float32, copy=False).ravel(), mask[present].ravel()


def pixel_average_precision(values: FloatArray, mask: BoolArray) -> float:
    """Average precision of a map's values as scores of a mask's pixels.

    ``AP = sum_n (R_n - R_{n-1}) P_n`` over the thresholds in descending order, equal values
    counted together (the definition of scikit-learn's ``average_precision_score``).

    Parameters
    ----------
    values : ndarray of float
        The map, any shape; NaN pixels take no part.
    mask : ndarray of bool
        Where the truth is, the same shape.

    Returns
    -------
    float
        0 to 1; NaN where the mask has no pixel, or no map value is there.

    Raises
    ------
    UsageError
        If the mask has another shape than the map, or is not bool.

    Examples
    --------
    >>> import numpy as np
    >>> pixel_average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
    0.8333333333333333
    """
    import torch

    from pathology_scaat.metrics.functional.ranking import average_precision

    scores, positives = _valid(values, mask)
    if not scores.size:
        return math.nan
    return float(
        average_precision(torch.from_numpy(scores)[None], torch.from_numpy(positives)[None])
    )


def pixel_auroc(values: FloatArray, mask: BoolArray) -> float:
    """Probability that a mask pixel outranks another pixel, ties counted half.

    Parameters
    ----------
    values : ndarray of float
        The map, any shape; NaN pixels take no part.
    mask : ndarray of bool
        Where the truth is, the same shape.

    Returns
    -------
    float
        0 to 1, chance 0.5; NaN where the mask holds no pixel or all of them.

    Raises
    ------
    UsageError
        If the mask has another shape than the map, or is not bool.

    Examples
    --------
    >>> import numpy as np
    >>> pixel_auroc(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
    0.5
    """
    scores, positives = _valid(values, mask)
    return roc_auc(scores, positives)


def slide_localisation(map_values: FloatArray, mask: BoolArray) -> SlideLocalisation:
    """How well a slide map ranks the pixels of a truth mask, beside chance.

    Parameters
    ----------
    map_values : ndarray of float, (H, W)
        The map; NaN where there is no data (those pixels take no part).
    mask : ndarray of bool, (H, W)
        The truth on the same grid.

    Returns
    -------
    SlideLocalisation
        With NaN scores where the mask is empty or full among the valid pixels.

    Raises
    ------
    UsageError
        If the mask has another shape than the map, or is not bool.

    Examples
    --------
    >>> import numpy as np
    >>> score = slide_localisation(np.array([[1.0, 0.0], [np.nan, 0.2]]),
    ...                            np.array([[True, False], [True, False]]))
    >>> (score.pixel_ap, round(score.chance, 3), score.auroc, score.n_px)
    (1.0, 0.333, 1.0, 3)
    """
    scores, positives = _valid(map_values, mask)
    n_positive = int(positives.sum())
    return SlideLocalisation(
        pixel_ap=pixel_average_precision(scores, positives),
        chance=n_positive / scores.size if scores.size and n_positive else math.nan,
        auroc=pixel_auroc(scores, positives),
        n_px=int(scores.size),
        n_positive_px=n_positive,
    )
