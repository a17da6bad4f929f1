"""Intervals from resampling patients: slides of one patient are alike and go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.system.rounding import decimals

N_RESAMPLES = 5000
ROWS_AT_ONCE = 500
CONFIDENCE = 0.95
MIN_PATIENTS = 5
"""With fewer patients of either class a bootstrap is far too narrow: no interval is given."""

Measures = Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]
"""Weights (R, n) of the cases to the values (R,) of some measures."""


@dataclass(frozen=True)
class Estimate:
    """A measure with its interval; None where it cannot be given.

    Attributes
    ----------
    value : float or None
        Of the cases as they are.
    low, high : float or None
        Ends of the percentile interval over patients.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def text(self) -> str:
        """``0.912 (0.850-0.961)``."""
        if self.value is None:
            return "not measurable"
        if self.low is None or self.high is None:
            return f"{decimals(self.value)} (no interval)"
        return f"{decimals(self.value)} ({decimals(self.low)}-{decimals(self.high)})"


def patient_weights(
    patients: Sequence[str], n_resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """How often each case counts when whole patients are drawn with replacement.

    Parameters
    ----------
    patients : sequence of str
        Patient of each of n cases.
    n_resamples : int
        R draws, of as many patients as there are.
    seed : int

    Yields
    ------
    ndarray, (r, n) float64
        Counts, R rows in all, at most :data:`ROWS_AT_ONCE` at a time.
    """
    _, codes = np.unique(np.asarray(patients), return_inverse=True)
    n_patients = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    share = np.full(n_patients, 1 / n_patients)
    for start in range(0, n_resamples, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, n_resamples - start)
        yield rng.multinomial(n_patients, share, size=rows)[:, codes.ravel()].astype(np.float64)


def intervals(
    measures: Measures,
    patients: Sequence[str],
    *,
    with_intervals: bool = True,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimates with percentile intervals over patients.

    Parameters
    ----------
    measures : callable
        Values of all measures under weights (R, n) of the cases.
    patients : sequence of str
        Patient of each case.
    with_intervals : bool
        False gives the values alone.
    n_resamples : int
    seed : int
        Of the draws.

    Notes
    -----
    A resample that lacks a class gives some measures no value and does not enter theirs; where
    that is more than half of them there is no interval. Nor is there one where all resamples
    agree: after 20 right calls of 20 a bootstrap would say "1.000 to 1.000", which is untrue.
    """
    values = measures(np.ones((1, len(patients))))
    found = {name: _plain(float(value[0])) for name, value in values.items()}
    if not with_intervals:
        return {name: Estimate(value) for name, value in found.items()}
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in found}
    for weights in patient_weights(patients, n_resamples, seed):
        for name, part in measures(weights).items():
            drawn[name].append(part)
    tail = (1 - CONFIDENCE) / 2
    result = {}
    for name, value in found.items():
        sample = np.concatenate(drawn[name])
        kept = sample[np.isfinite(sample)]
        if value is None or len(kept) < n_resamples / 2:
            result[name] = Estimate(value)
            continue
        low, high = np.quantile(kept, [tail, 1 - tail])
        if high - low < 1e-12:
            # nobody was wrong: drawing the same patients again cannot tell how certain that is
            result[name] = Estimate(value)
            continue
        result[name] = Estimate(value, float(low), float(high))
    return result


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
