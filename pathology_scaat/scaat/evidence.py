"""Evidence: what a patch says for a class, laid where in the patch it comes from.

Saliency by the gradient is the size of a slope. A confident patch has small ones, so that its map
(or that of probability times saliency) leaves the inside of a tumour bare and its rim bright; by
class activation it says where the score comes from, and not how sure it is. Evidence takes from
saliency only *where in its patch* a pixel stands, and how much from the calibrated probability.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

EVIDENCE_FLOOR = 0.25
"""Share of a patch's probability that all its pixels have: what fills the inside of a tumour."""
EVIDENCE_POWER = 0.75
"""How sharply a pixel's rank counts; below 1 the peaks of saliency are tamed."""
EVIDENCE_SMOOTHING_PX = 1.0
"""Standard deviation of the Gaussian that saliency is smoothed with, in its own pixels: takes
away the grain of single pixels, which is of the network's strides."""


def patch_evidence(
    saliency: NDArray[np.floating[Any]], probability: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    r"""Evidence of each pixel of patches, :math:`p (f + (1 - f)\, t^g / (1 + t^g))`.

    :math:`t` is the pixel's saliency, smoothed a little, over the mean of its patch. The
    function rises strictly with it: inside a patch pixels keep their order. A pixel of mean
    saliency has :math:`p (1 + f) / 2`, and none has more than :math:`p`. The three constants
    were chosen by ``benchmarks/evidence_map.py`` on maps by the gradient; for maps by ``fused-cam``
    no other pair was found surely better (``benchmarks/evidence_constants.py``).

    Parameters
    ----------
    saliency : (N, h, h), >= 0
        Saliency for the class, in any unit: its scale cancels.
    probability : (N,)
        Calibrated probability of the class, 0 to 1.

    Returns
    -------
    (N, h, h) float64, 0 to 1

    Examples
    --------
    >>> patch_evidence(np.full((1, 2, 2), 0.3), np.array([0.8])).round(3)
    array([[[0.5, 0.5],
            [0.5, 0.5]]])
    """
    from scipy.ndimage import gaussian_filter  # takes nearly half a second to import

    wide = (0, EVIDENCE_SMOOTHING_PX, EVIDENCE_SMOOTHING_PX)
    values = gaussian_filter(np.asarray(saliency, dtype=np.float64), wide, mode="reflect")
    mean = values.mean(axis=(1, 2), keepdims=True)
    # a patch without any saliency ranks nothing: all its pixels stand in the middle
    if (mean > 0).all():
        values /= mean
    else:
        values = np.where(mean > 0, values / np.where(mean > 0, mean, 1.0), 1.0)
    relative = np.power(values, EVIDENCE_POWER, out=values)
    share: NDArray[np.float64] = (1 - EVIDENCE_FLOOR) * relative
    relative += 1
    share /= relative
    share += EVIDENCE_FLOOR
    share *= np.asarray(probability, np.float64)[:, None, None]
    return share
