"""Comparisons out of the JSON that ``report.py`` wrote, under the package's present statistics.

Results of before seeds entered the intervals hold a percentile bootstrap over patients of the
mean over seeds, and the mean of each seed. That is what an interval over both needs: the
patients' part of the standard error is taken from the bootstrap's width, the seeds' part from
the seeds' means. The AUC of each seed was not kept, so its intervals stay over patients alone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from pathology_scaat.evaluation.comparison import (
    ArmSummary,
    Comparison,
    MeasureRow,
    corrected,
    summarise,
)
from pathology_scaat.metrics.functional.statistics import Interval, crossed_interval, within

NORMAL_975 = 1.959964


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _interval(stored: dict[str, Any], seeds: list[float] | None, n_seeds: int) -> Interval:
    """An interval as stored, or made anew from a bootstrap's width and the seeds' means.

    ``seeds`` None: their means are not known, and the interval stays over patients.
    """
    if "patient_se" in stored:
        words = {k: v if isinstance(v, int) else _number(v) for k, v in stored.items()}
        return Interval(**words)
    value, n_patients = _number(stored["value"]), int(stored["n_clusters"])
    width = _number(stored["high"]) - _number(stored["low"])
    if math.isnan(width):
        return Interval(value, math.nan, math.nan, stored["n"], n_patients, math.nan, n_seeds)
    # A bootstrap over P patients has (P - 1) / P of the variance.
    patients = (width / 2 / NORMAL_975) ** 2 * n_patients / (n_patients - 1)
    known = seeds is not None and n_seeds > 1 and not any(math.isnan(s) for s in seeds)
    found = crossed_interval(
        value,
        seed_variance=float(np.var(seeds, ddof=1)) / n_seeds if known else math.nan,
        n_seeds=n_seeds if known else 1,
        patient_variance=patients,
        n_patients=n_patients,
        n=int(stored["n"]),
    )
    return replace(found, n_seeds=n_seeds)


def comparison_from(stored: dict[str, Any], unit: str) -> Comparison:
    """A comparison from its stored form; ``unit`` is what its images are grouped by."""
    means = {
        (r["arm"], r["measure"], r["subset"]): [_number(v) for v in r["seed_values"]]
        for r in stored["rows"]
    }
    rows = []
    for r in stored["rows"]:
        own = means[r["arm"], r["measure"], r["subset"]]
        base = means.get((stored["baseline"], r["measure"], r["subset"]))
        gain = None
        if r["gain"] is not None:
            pairs = None if base is None else [a - b for a, b in zip(own, base, strict=True)]
            gain = _interval(r["gain"], pairs, len(own))
        value = _interval(r["value"], own, len(own))
        rows.append(MeasureRow(r["arm"], r["measure"], r["subset"], value, gain, tuple(own)))
    rows = corrected(rows, stored["primary"])
    return Comparison(
        data=stored["data"],
        baseline=stored["baseline"],
        primary=stored["primary"],
        auc_margin=stored["auc_margin"],
        n_images=stored["n_images"],
        n_groups=stored.get("n_groups", stored.get("n_patients")),
        n_all_correct=stored["n_all_correct"],
        unit=unit,
        arms=tuple(_arm(a, stored, rows) for a in stored["arms"]),
        rows=tuple(rows),
    )


def _arm(arm: dict[str, Any], stored: dict[str, Any], rows: list[MeasureRow]) -> ArmSummary:
    wanted = (arm["arm"], stored["primary"], "all")
    row = next((r for r in rows if (r.arm, r.measure, r.subset) == wanted), None)
    difference = arm["auc_difference"]
    return summarise(
        arm["arm"],
        arm["n_seeds"],
        within(_interval(arm["auc"], None, arm["n_seeds"]), 0.0, 1.0),
        None if difference is None else _interval(difference, None, arm["n_seeds"]),
        row,
        stored["auc_margin"],
    )
