"""Averages over patients and training seeds, with intervals that hold both.

A trained model is one draw of what its recipe can give: another seed, another model. What is
concluded of a *method* must hold for other seeds as for other patients, so both are random here
(seeds crossed with patients, as readers are with cases where several readers judge the same
images: Dorfman, Berbaum and Metz 1992; Obuchowski and Rockette 1995). The squared standard error
of a mean is the sum of two: the variance between seeds over their number, and the variance
between patients over theirs. Each has the noise between seed and patient in it, which is taken
off the sum once; no sum is smaller than either of its parts.

With 3 to 10 seeds a bootstrap is far too narrow, and so is the normal distribution. The quantile
lies between two well-known ones: Student's t with Satterthwaite's degrees of freedom, which is a
little too narrow for 3 seeds, and Cochran and Cox's mean of the two t quantiles, which is a
little too wide; with S seeds the latter has the weight 1 / (S - 1). By simulation the 95 %
interval holds the truth in 93 to 97 % for 3, 5 and 10 seeds, whether the seed matters or not, and
also where the noise between seed and patient is as large as the patients' own spread
(``tests/metrics/test_interval_coverage.py``). Where no noise is given (results that kept the two
variances alone) it is counted twice, and the interval is a little too wide: up to 98 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional.roc import placements

MIN_PATIENTS = 5
"""With fewer nothing is concluded: what is true of four patients is no finding."""

MIN_SEEDS = 5
"""With fewer no method is called better than another: the interval holds for these seeds only."""

LEAST_P = 1e-12
"""No p-value is smaller: so far down it rests on the shape of a tail alone."""
SIGNIFICANCE = 0.05
"""Largest corrected p-value of a verdict."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; NaN where nothing could be measured.

    Attributes
    ----------
    value, low, high : float
        Mean over seeds and its confidence limits.
    n : int
        Images with a value in any seed.
    n_clusters : int
        Patients among them.
    p_value : float
        Two-sided, against zero; not corrected.
    n_seeds : int
        Trained models. With one, the interval is over patients and holds for that model alone.
    seed_se, patient_se : float
        The two parts of the standard error; ``seed_se`` is NaN where the seeds do not enter.
    """

    value: float
    low: float
    high: float
    n: int
    n_clusters: int
    p_value: float = math.nan
    n_seeds: int = 1
    seed_se: float = math.nan
    patient_se: float = math.nan

    @property
    def can_judge(self) -> bool:
        """Whether there are enough seeds and patients, and both in it, for a verdict."""
        enough = self.n_seeds >= MIN_SEEDS and self.n_clusters >= MIN_PATIENTS
        return enough and not math.isnan(self.low) and not math.isnan(self.seed_se)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v
            for k, v in asdict(self).items()
        }


@dataclass(frozen=True)
class _Reference:
    """What an estimate over its standard error is distributed like, about."""

    variances: tuple[float, ...]
    degrees_of_freedom: tuple[int, ...]
    cochran_weight: float

    def quantile(self, tail: float) -> float:
        """The value that is passed with probability ``tail`` on one side."""
        from scipy.special import stdtrit

        total = sum(self.variances)
        shares = [v / total for v in self.variances]
        cochran = sum(
            s * stdtrit(f, 1 - tail) for s, f in zip(shares, self.degrees_of_freedom, strict=True)
        )
        pooled_degrees = 1 / sum(
            s**2 / f for s, f in zip(shares, self.degrees_of_freedom, strict=True)
        )
        satterthwaite = stdtrit(pooled_degrees, 1 - tail)
        return float(self.cochran_weight * cochran + (1 - self.cochran_weight) * satterthwaite)

    def p_value(self, ratio: float) -> float:
        """Two-sided p-value of an estimate of ``ratio`` standard errors."""
        from scipy.optimize import brentq

        if abs(ratio) >= self.quantile(LEAST_P / 2):
            return LEAST_P
        if abs(ratio) < 1e-9:
            return 1.0
        # The quantile falls from far above the ratio to zero as p goes to 1.
        found = brentq(
            lambda log_p: self.quantile(math.exp(log_p) / 2) - abs(ratio), math.log(LEAST_P), 0.0
        )
        return min(1.0, math.exp(found))


def crossed_interval(
    value: float,
    *,
    seed_variance: float,
    n_seeds: int,
    patient_variance: float,
    n_patients: int,
    n: int,
    noise_variance: float = 0.0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a mean over seeds and patients from its two squared standard errors.

    Parameters
    ----------
    value : float
        The mean.
    seed_variance : float
        Variance of the seeds' means over the number of seeds; of no meaning for one seed.
    n_seeds : int
    patient_variance : float
        Variance of the patients' means (over seeds) over the number of patients.
    n_patients : int
    n : int
        Images, for the record.
    noise_variance : float
        Variance of what is left between seed and patient over the number of both: it is a part
        of ``seed_variance`` as of ``patient_variance``.
    confidence : float

    Returns
    -------
    Interval
        Over patients alone for one seed; without limits for one patient.
    """
    if n_patients < 2 or math.isnan(value):
        return Interval(value, math.nan, math.nan, n, n_patients, math.nan, n_seeds)
    if n_seeds < 2:
        reference = _Reference((patient_variance,), (n_patients - 1,), 0.0)
    else:
        reference = _Reference(
            (seed_variance, patient_variance), (n_seeds - 1, n_patients - 1), 1 / (n_seeds - 1)
        )
    # The quantile keeps the variances as they are: few seeds say little about what is noise.
    error = math.sqrt(max(sum(reference.variances) - noise_variance, *reference.variances, 0.0))
    parts = (
        math.sqrt(seed_variance) if n_seeds > 1 else math.nan,
        math.sqrt(patient_variance),
    )
    if error < 1e-12 * max(1.0, abs(value)):  # all alike: nothing varies
        p_value = 1.0 if abs(value) < 1e-12 else LEAST_P
        return Interval(value, value, value, n, n_patients, p_value, n_seeds, *parts)
    half = error * reference.quantile((1 - confidence) / 2)
    return Interval(
        value, value - half, value + half, n, n_patients,
        reference.p_value(value / error), n_seeds, *parts,
    )  # fmt: skip


def within(interval: Interval, least: float, most: float) -> Interval:
    """An interval whose limits are cut off where the quantity cannot be."""
    if math.isnan(interval.low):
        return interval
    return replace(interval, low=max(interval.low, least), high=min(interval.high, most))


def _clusters(clusters: Sequence[Any] | NDArray[Any], n: int) -> NDArray[np.int64]:
    if len(clusters) != n:
        raise UsageError("patients", f"are {len(clusters)} for {n} values", "name one a value")
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    return codes.astype(np.int64).ravel()


def _of_parts(parts: NDArray[np.float64], n: int, confidence: float) -> Interval:
    """Interval of the mean of a table, (seeds, patients): a patient's share in a seed's mean."""
    n_seeds, n_patients = parts.shape
    by_seed, by_patient = parts.mean(1), parts.mean(0)
    noise = 0.0
    if n_seeds > 1 and n_patients > 1:
        left = parts - by_seed[:, None] - by_patient + parts.mean()
        noise = float((left**2).sum()) / ((n_seeds - 1) * (n_patients - 1)) / parts.size
    return crossed_interval(
        float(by_seed.mean()),
        seed_variance=float(by_seed.var(ddof=1)) / n_seeds if n_seeds > 1 else math.nan,
        n_seeds=n_seeds,
        patient_variance=float(by_patient.var(ddof=1)) / n_patients if n_patients > 1 else math.nan,
        n_patients=n_patients,
        n=n,
        noise_variance=noise,
        confidence=confidence,
    )


def clustered_mean(
    values: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Mean of values with an interval over seeds and patients.

    Values of one patient are alike, and so are those of one trained model: images are not what
    the interval counts. For a paired comparison give the differences, seed by seed.

    Parameters
    ----------
    values : (N,) or (S, N)
        Of one trained model, or of S of them on the same images. NaN values take no part; a seed
        without any is left out.
    clusters : (N,)
        Patient of each image.
    confidence : float

    Returns
    -------
    Interval
        The limits are NaN with fewer than two patients.

    Raises
    ------
    UsageError
        If there are not as many patients as images.

    Examples
    --------
    >>> found = clustered_mean([[1.0, 1.0, 4.0], [2.0, 2.0, 5.0]], ["a", "a", "b"])
    >>> found.value, found.n, found.n_clusters, found.n_seeds
    (2.5, 3, 2, 2)
    """
    data = np.atleast_2d(np.asarray(values, dtype=np.float64))
    codes = _clusters(clusters, data.shape[1])
    there = ~np.isnan(data)
    data, there = data[there.any(1)], there[there.any(1)]
    used = there.any(0)
    if not data.size or not used.any():
        return Interval(math.nan, math.nan, math.nan, 0, 0, math.nan, 0)
    data, there = data[:, used], there[:, used]
    _, codes = np.unique(codes[used], return_inverse=True)
    n_patients = int(codes.max()) + 1
    parts = np.empty((len(data), n_patients))
    for row, seed, known in zip(parts, data, there, strict=True):
        mean = seed[known].mean()
        # Linearised: patients with more images weigh more, and the row's mean is the seed's mean.
        pulls = np.bincount(codes[known], seed[known] - mean, n_patients)
        row[:] = mean + n_patients * pulls / known.sum()
    return _of_parts(parts, int(used.sum()), confidence)


def clustered_auc(
    scores: ArrayLike,
    positive: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    minus: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Interval:
    """ROC AUC with an interval over seeds and patients; with ``minus``, a paired difference.

    Parameters
    ----------
    scores : (N,) or (S, N)
        Of one model, or of S seeds, whose AUCs are averaged.
    positive : (N,) bool
    clusters : (N,)
        Patient of each item.
    minus : as scores, optional
        Scores of another model on the same items, seed by seed: the result is AUC - AUC(minus).
    confidence : float

    Returns
    -------
    Interval
        All NaN with items of one class only; of a single model without limits where it is 0 or 1
        in every seed, since then nothing tells how certain that is. A patient's part in the AUC is
        that of its items' placements (DeLong et al. 1988; for clusters, Obuchowski 1997).

    Raises
    ------
    UsageError
        If the numbers of items or seeds do not fit.

    Examples
    --------
    >>> clustered_auc([0.1, 0.9], [False, True], ["a", "b"]).value
    1.0
    """
    first = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    other = None if minus is None else np.atleast_2d(np.asarray(minus, dtype=np.float64))
    truth = np.asarray(positive, dtype=bool).ravel()
    codes = _clusters(clusters, truth.size)
    if other is not None and other.shape != first.shape:
        raise UsageError(
            "the scores", f"are {other.shape} against {first.shape}", "compare the same seeds"
        )
    n_patients = int(codes.max()) + 1 if codes.size else 0
    n_positive = int(truth.sum())
    if n_positive in (0, truth.size):
        nan = math.nan
        return Interval(nan, nan, nan, int(truth.size), n_patients, nan, len(first))

    def parts(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        table = np.empty((len(rows), n_patients))
        for target, row in zip(table, rows, strict=True):
            found = placements(row, truth)
            auc = found[truth].mean()
            weight = np.where(truth, 1 / n_positive, 1 / (truth.size - n_positive))
            target[:] = auc + n_patients * np.bincount(codes, (found - auc) * weight, n_patients)
        return table

    if other is not None:
        return _of_parts(parts(first) - parts(other), int(truth.size), confidence)
    found = within(_of_parts(parts(first), int(truth.size), confidence), 0.0, 1.0)
    if found.value in (0.0, 1.0):  # no pair in another order: nothing varies
        return replace(found, low=math.nan, high=math.nan, p_value=math.nan)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for many comparisons.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(order):
        raised = min(1.0, float(p_values[index]) * (len(p_values) - position))
        largest = max(largest, raised)
        corrected[int(index)] = largest
    return corrected
