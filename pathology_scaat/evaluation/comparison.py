"""Training methods compared under one protocol: arithmetic on measurements.

Every arm saw the same images and was trained with the same seeds; differences are taken image by
image and seed by seed, and the interval of their mean holds both patients and seeds
(:mod:`~pathology_scaat.metrics.functional.statistics`). With fewer than five seeds there is no
verdict. The AUC comes first: an arm that loses more than the margin is not called better whatever
its maps are like. One measure decides, its p-values corrected for the number of arms (Holm); of
the others, p-values are corrected for their number times that of the arms.

All measures that judge a map depend on the *ranks* of its pixels alone, so that a model whose
maps are merely sharper gains nothing: sparsity is matched by construction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.evaluation.measurement import Measurement, Values, direction
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.metrics.functional.statistics import (
    MIN_PATIENTS,
    MIN_SEEDS,
    SIGNIFICANCE,
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
    ``seed_values`` the mean of each seed; ``p_holm`` the p-value of the gain, corrected for the
    number of arms (the primary measure on all images) or of arms and measures (all others).
    """

    arm: str
    measure: str
    subset: Subset
    value: Interval
    gain: Interval | None
    seed_values: tuple[float, ...]
    p_holm: float | None = None

    @property
    def shift(self) -> int | None:
        """1: the gain is sure and good, whatever the number of seeds; -1: sure and bad; 0: unsure.

        Sure means a corrected p-value below .05 of at least five patients. None where it is not
        defined, as for descriptions.
        """
        sign = direction(self.measure)
        if self.gain is None or sign == 0 or math.isnan(self.gain.low) or self.p_holm is None:
            return None
        if self.gain.n_clusters < MIN_PATIENTS:
            return None
        if self.p_holm >= SIGNIFICANCE:
            return 0
        return 1 if self.gain.value * sign > 0 else -1

    @property
    def improves(self) -> bool | None:
        """Whether the arm is better than the baseline; None where no verdict can be given.

        That is with fewer than five seeds or patients, and for descriptions.
        """
        if self.gain is None or not self.gain.can_judge or self.shift is None:
            return None
        return self.shift > 0


NO_VERDICT_BY_COPIED = (
    "no verdict: the patches are judged by labels copied from slides, which are wrong for many"
)


@dataclass(frozen=True)
class ArmSummary:
    """Prediction of one arm: AUC, its paired difference, and the verdict in words.

    ``non_inferior`` is None for the baseline and where there are too few seeds or patients.
    """

    arm: str
    n_seeds: int
    auc: Interval
    auc_difference: Interval | None
    non_inferior: bool | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """The whole comparison, as plain values.

    ``n_groups`` counts patients, or what else images are grouped by: ``unit`` says which.
    ``label_note`` is what is to be said of the images' labels; ``read_first`` what no figure is to
    be read without: which models have learnt nothing, or learnt from painted slides.
    """

    data: str
    baseline: str
    primary: str
    auc_margin: float
    n_images: int
    n_groups: int
    n_all_correct: int
    unit: str
    arms: tuple[ArmSummary, ...]
    rows: tuple[MeasureRow, ...]
    label_note: str = ""
    read_first: tuple[str, ...] = ()

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
    """A nested value with None instead of NaN, as JSON wants it."""
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
        auc = clustered_auc(scores[arm], truth, data.groups)
        difference = None
        if arm != baseline:
            difference = clustered_auc(scores[arm], truth, data.groups, minus=scores[baseline])
        row = next((r for r in rows if (r.arm, r.measure, r.subset) == (arm, primary, "all")), None)
        summary = summarise(arm, len(found), auc, difference, row, config.auc_margin)
        if data.copied and arm != baseline:
            summary = replace(summary, non_inferior=None, verdict=NO_VERDICT_BY_COPIED)
        summaries.append(summary)
    return tuple(summaries)


def summarise(
    arm: str,
    n_seeds: int,
    auc: Interval,
    difference: Interval | None,
    row: MeasureRow | None,
    auc_margin: float,
) -> ArmSummary:
    """An arm's summary with its verdict, from its intervals.

    Parameters
    ----------
    arm : str
    n_seeds : int
    auc : Interval
    difference : Interval or None
        AUC less the baseline's; None for the baseline.
    row : MeasureRow or None
        The primary measure on all images.
    auc_margin : float
        Largest loss of AUC that counts as none.
    """
    fine = None
    if difference is not None and difference.can_judge:
        fine = difference.low >= -auc_margin
    verdict = _verdict(difference is None, fine, row, n_seeds)
    return ArmSummary(arm, n_seeds, auc, difference, fine, verdict)


def _verdict(is_baseline: bool, fine: bool | None, row: MeasureRow | None, n_seeds: int) -> str:
    if is_baseline:
        return "the baseline"
    maps = {
        None: "its maps could not be judged by the primary measure",
        1: "its maps are better by the primary measure",
        0: "its maps are not shown to be better by the primary measure",
        -1: "its maps are worse by the primary measure",
    }[row.shift if row is not None else None]
    if n_seeds < MIN_SEEDS:
        seeds = "1 seed" if n_seeds == 1 else f"{n_seeds} seeds"
        these = "this seed" if n_seeds == 1 else "these seeds"
        here = {
            None: "the maps could not be judged",
            1: "the maps are better",
            0: "the maps are not told apart",
            -1: "the maps are worse",
        }[row.shift if row is not None else None]
        return (
            f"no verdict: {seeds}, at least {MIN_SEEDS} are needed; for {these} only: {here} "
            "by the primary measure"
        )
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
    arms : mapping of name to measurements
        One measurement per seed, in the same order of seeds for all arms.
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
        If the baseline is missing, an arm was measured on other images, or the arms do not
        have the same seeds.
    """
    config = config or ProtocolConfig()
    primary = primary or config.primary
    if baseline not in arms:
        raise UsageError("baseline", f"'{baseline}' was not measured", f"have {', '.join(arms)}")
    for arm, found in arms.items():
        if not found or any(len(m.logits) != len(data) for m in found):
            raise UsageError(arm, "was not measured on these images", "measure it again")
        _check_seeds(arm, found, arms[baseline])
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
                    _row(arm, measure, subset, values,
                         None if arm == baseline else per_arm.get(baseline), data, keep)
                )  # fmt: skip
    rows = corrected(rows, primary)
    return Comparison(
        data=data.name,
        baseline=baseline,
        primary=primary,
        auc_margin=config.auc_margin,
        n_images=len(data),
        n_groups=len(np.unique(data.groups)),
        n_all_correct=int(correct.sum()),
        unit=data.unit,
        arms=_summaries(arms, data, baseline, config, primary, rows),
        rows=tuple(rows),
        label_note=data.label_note,
    )


def _check_seeds(arm: str, found: Sequence[Measurement], base: Sequence[Measurement]) -> None:
    """Refuse arms that cannot be compared seed by seed, as far as it is known."""
    if len(found) != len(base):
        raise UsageError(
            arm,
            f"has {len(found)} seeds where the baseline has {len(base)}",
            "compare the seeds that both have",
        )
    seeds = [m.facts.get("seed") for m in found]
    others = [m.facts.get("seed") for m in base]
    known = [s for s in seeds if s is not None]
    if len(set(known)) != len(known):
        raise UsageError(arm, "has a seed twice", "give each seed once")
    if any(s != o for s, o in zip(seeds, others, strict=True) if s is not None and o is not None):
        raise UsageError(
            arm, "has other seeds than the baseline", "give the same seeds in the same order"
        )


def _row(
    arm: str,
    measure: str,
    subset: Subset,
    values: Sequence[Values],
    base: Sequence[Values] | None,
    data: EvaluationSet,
    keep: NDArray[np.bool_] | None,
) -> MeasureRow:
    own = np.stack(values)
    # Tiles of a mosaic come from several patients: each mosaic stands for itself.
    groups = np.arange(own.shape[1]) if measure.startswith("mosaic") else data.groups

    def chosen(v: Values) -> Values:
        return v if keep is None else np.where(keep, v, np.nan)

    return MeasureRow(
        arm=arm,
        measure=measure,
        subset=subset,
        value=clustered_mean(chosen(own), groups),
        gain=None if base is None else clustered_mean(chosen(own - np.stack(base)), groups),
        seed_values=tuple(
            float(np.nanmean(c)) if not np.isnan(c).all() else math.nan for c in chosen(own)
        ),
    )


def corrected(rows: Sequence[MeasureRow], primary: str) -> list[MeasureRow]:
    """Rows with Holm-corrected p-values.

    The primary measure on all images is a family of its own (over the arms); so are the other
    measures on all images, and all measures on each smaller set of images.
    """
    families: dict[tuple[Subset, bool], list[int]] = {}
    for i, r in enumerate(rows):
        if r.gain is None or direction(r.measure) == 0 or math.isnan(r.gain.p_value):
            continue
        families.setdefault((r.subset, r.subset == "all" and r.measure == primary), []).append(i)
    result = list(rows)
    for tested in families.values():
        raised = holm([rows[i].gain.p_value for i in tested])  # type: ignore[union-attr]
        for i, p in zip(tested, raised, strict=True):
            result[i] = replace(rows[i], p_holm=p)
    return result
