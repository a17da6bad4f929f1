"""Training methods compared under one protocol: arithmetic on measurements.

Every arm saw the same images; each image's value is averaged over the seeds of its arm, and
differences are taken image by image before patients are resampled. The AUC comes first: an arm
that loses more than the margin is not called better whatever its maps are like. One measure
decides; of the others, p-values are corrected for their number (Holm).

All measures that judge a map depend on the *ranks* of its pixels alone, so that a model whose
maps are merely sharper gains nothing: sparsity is matched by construction.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.evaluation.measurement import Measurement, Values, direction
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.metrics.functional.statistics import (
    MIN_PATIENTS,
    Interval,
    clustered_auc,
    clustered_mean,
    holm,
)

Subset = str
SUBSETS = ("all", "all arms correct", "positive class")
"""Which images count. One without the finding has no evidence to take away: its curves tell which
class an emptied picture falls to. So faithfulness stands for the positive class alone, too."""


@dataclass(frozen=True)
class MeasureRow:
    """One measure of one arm on one subset of the images.

    ``gain`` is the paired difference to the baseline (None for the baseline itself);
    ``seed_values`` the mean of each seed; ``p_holm`` the corrected p-value of the gain.
    """

    arm: str
    measure: str
    subset: Subset
    value: Interval
    gain: Interval | None
    seed_values: tuple[float, ...]
    p_holm: float | None = None

    @property
    def improves(self) -> bool | None:
        """Whether the gain's interval excludes zero on the good side; None if not defined.

        Not defined for descriptions and with too few patients.
        """
        sign = direction(self.measure)
        if self.gain is None or sign == 0 or math.isnan(self.gain.low):
            return None
        if self.gain.n_clusters < MIN_PATIENTS:
            return None
        return self.gain.low > 0 if sign > 0 else self.gain.high < 0


@dataclass(frozen=True)
class ArmSummary:
    """Prediction of one arm: AUC, its paired difference, and the verdict in words."""

    arm: str
    n_seeds: int
    auc: Interval
    auc_difference: Interval | None
    non_inferior: bool | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """The whole comparison, as plain values."""

    data: str
    baseline: str
    primary: str
    auc_margin: float
    n_images: int
    n_patients: int
    n_all_correct: int
    arms: tuple[ArmSummary, ...]
    rows: tuple[MeasureRow, ...]

    def row(self, arm: str, measure: str, subset: Subset = "all") -> MeasureRow | None:
        """The row of an arm and measure, or None where it was not measured."""
        wanted = (arm, measure, subset)
        return next((r for r in self.rows if (r.arm, r.measure, r.subset) == wanted), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        plain = without_nan(asdict(self))
        assert isinstance(plain, dict)  # noqa: S101  (for the type checker)
        return plain


def without_nan(value: Any) -> Any:
    """A nested value with None in the place of NaN, as JSON wants it."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return value


def positive_scores(logits: NDArray[np.floating[Any]], positive_class: int) -> NDArray[np.float64]:
    """Log-odds of the positive class, (N,), from logits (N, K)."""
    if logits.shape[1] == 1:
        return np.asarray(logits[:, 0] * (1 if positive_class == 1 else -1), dtype=np.float64)
    others = np.delete(logits, positive_class, axis=1).astype(np.float64)
    return np.asarray(
        logits[:, positive_class].astype(np.float64) - np.logaddexp.reduce(others, axis=1)
    )


def _seed_mean(values: Sequence[Values]) -> Values:
    """Mean of each image over seeds, of those that have a value."""
    stacked = np.stack(values)
    with warnings.catch_warnings():
        # An image without a value in any seed is NaN on purpose.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(stacked, axis=0))


def _summaries(
    arms: Mapping[str, Sequence[Measurement]],
    data: EvaluationSet,
    baseline: str,
    config: ProtocolConfig,
    primary: str,
    rows: Sequence[MeasureRow],
) -> tuple[ArmSummary, ...]:
    truth = data.is_positive
    scores = {
        arm: np.stack([positive_scores(m.logits, data.positive_class) for m in found])
        for arm, found in arms.items()
    }
    summaries = []
    for arm, found in arms.items():
        auc = clustered_auc(
            scores[arm], truth, data.groups, n_resamples=config.n_resamples, seed=config.seed
        )
        difference, fine = None, None
        if arm != baseline:
            difference = clustered_auc(
                scores[arm], truth, data.groups, minus=scores[baseline],
                n_resamples=config.n_resamples, seed=config.seed,
            )  # fmt: skip
            fine = None if math.isnan(difference.low) else difference.low >= -config.auc_margin
        row = next((r for r in rows if (r.arm, r.measure, r.subset) == (arm, primary, "all")), None)
        summaries.append(
            ArmSummary(arm, len(found), auc, difference, fine, _verdict(arm, baseline, fine, row))
        )
    return tuple(summaries)


def _verdict(arm: str, baseline: str, fine: bool | None, row: MeasureRow | None) -> str:
    if arm == baseline:
        return "the baseline"
    if row is None or row.improves is None:
        maps = "its maps could not be judged by the primary measure"
    elif row.improves:
        maps = "its maps are better by the primary measure"
    else:
        maps = "its maps are not shown to be better by the primary measure"
    prediction = {
        True: "prediction is not worse",
        False: "that prediction is not worse is not shown",
        None: "prediction could not be compared",
    }[fine]
    return f"{prediction}; {maps}"


def compare_measurements(
    arms: Mapping[str, Sequence[Measurement]],
    data: EvaluationSet,
    *,
    baseline: str = "plain",
    config: ProtocolConfig | None = None,
    primary: str | None = None,
) -> Comparison:
    """Compare arms that were measured on the same images.

    Parameters
    ----------
    arms : mapping of name to measurements, one a seed
    data : EvaluationSet
        The images that were measured.
    baseline : str
        Arm that the others are compared with.
    config : ProtocolConfig, optional
    primary : str, optional
        Measure that decides; else that of the config.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        If the baseline is missing or an arm was measured on other images.
    """
    config = config or ProtocolConfig()
    primary = primary or config.primary
    if baseline not in arms:
        raise UsageError("baseline", f"'{baseline}' was not measured", f"have {', '.join(arms)}")
    for arm, found in arms.items():
        if not found or any(len(m.logits) != len(data) for m in found):
            raise UsageError(arm, "was not measured on these images", "measure it again")
    correct = np.ones(len(data), dtype=bool)
    for found in arms.values():
        for m in found:
            correct &= m.logits.argmax(1) == data.labels
    names = list(dict.fromkeys(n for found in arms.values() for n in found[0].values))
    kept = dict(zip(SUBSETS, (None, correct, data.is_positive), strict=True))
    rows: list[MeasureRow] = []
    for measure in names:
        per_arm = {
            arm: [m.values[measure] for m in found]
            for arm, found in arms.items()
            if all(measure in m.values for m in found)
        }
        for subset, keep in kept.items():
            if measure.startswith("mosaic") and keep is not None:
                continue
            for arm, values in per_arm.items():
                rows.append(
                    _row(arm, measure, subset, values, per_arm.get(baseline), data,
                         keep, arm == baseline, config)
                )  # fmt: skip
    rows = _corrected(rows, primary)
    return Comparison(
        data=data.name,
        baseline=baseline,
        primary=primary,
        auc_margin=config.auc_margin,
        n_images=len(data),
        n_patients=len(np.unique(data.groups)),
        n_all_correct=int(correct.sum()),
        arms=_summaries(arms, data, baseline, config, primary, rows),
        rows=tuple(rows),
    )


def _row(
    arm: str,
    measure: str,
    subset: Subset,
    values: Sequence[Values],
    base: Sequence[Values] | None,
    data: EvaluationSet,
    keep: NDArray[np.bool_] | None,
    is_baseline: bool,
    config: ProtocolConfig,
) -> MeasureRow:
    own = _seed_mean(values)
    # Tiles of a mosaic come from several patients: each mosaic stands for itself.
    groups = np.arange(len(own)) if measure.startswith("mosaic") else data.groups
    options: dict[str, Any] = {"n_resamples": config.n_resamples, "seed": config.seed}

    def chosen(v: Values) -> Values:
        return v if keep is None else np.where(keep, v, np.nan)

    gain = None
    if base is not None and not is_baseline:
        gain = clustered_mean(chosen(own - _seed_mean(base)), groups, **options)
    return MeasureRow(
        arm=arm,
        measure=measure,
        subset=subset,
        value=clustered_mean(chosen(own), groups, **options),
        gain=gain,
        seed_values=tuple(
            float(np.nanmean(c)) if not np.isnan(c).all() else math.nan for c in map(chosen, values)
        ),
    )


def _corrected(rows: list[MeasureRow], primary: str) -> list[MeasureRow]:
    """Holm's correction over all gains on all images but the primary ones."""
    tested = [
        i
        for i, r in enumerate(rows)
        if r.gain is not None and r.subset == "all" and direction(r.measure) != 0
        and r.measure != primary and not math.isnan(r.gain.p_value)
    ]  # fmt: skip
    raised = holm([rows[i].gain.p_value for i in tested])  # type: ignore[union-attr]
    result = list(rows)
    for i, p in zip(tested, raised, strict=True):
        r = rows[i]
        result[i] = MeasureRow(r.arm, r.measure, r.subset, r.value, r.gain, r.seed_values, p)
    return result
