"""What the figures of a trust card are worth, in a word and in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.metrics.functional.statistics import MIN_PATIENTS, Interval

Verdict = Literal["good", "unclear", "poor", "described", "not measured"]


def count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def judge(interval: Interval, chance: float) -> Verdict:
    if interval.n_clusters < MIN_PATIENTS or math.isnan(interval.low):
        return "unclear"
    if interval.low > chance:
        return "good"
    return "poor" if interval.high < chance else "unclear"


_WORDS: dict[Verdict, str] = {
    "good": "above chance, interval included",
    "unclear": "not told apart from chance with these images",
    "poor": "below chance",
    "described": "a description: neither high nor low is good in itself",
    "not measured": "",
}


def verdict_words(verdict: Verdict, interval: Interval, unit: str) -> str:
    if verdict != "described" and interval.n_clusters < MIN_PATIENTS:
        return (
            f"{count(interval.n_clusters, unit.removesuffix('s'), unit)} only: too few to say "
            "what follows for others"
        )
    return _WORDS[verdict]


def judged_auc(
    found: Interval, truth: NDArray[np.bool_], groups: Sequence[Any], unit: str, item: str
) -> tuple[Verdict, str]:
    """Verdict on an AUC and its words; one of 0 or 1 has no interval, which would call it certain.

    Parameters
    ----------
    found : Interval
    truth : (N,) bool
        Of each item whether it is positive.
    groups : sequence
        Patient of each item.
    unit, item : str
        What the groups and the items are called.
    """
    if found.value not in (0.0, 1.0):
        verdict = judge(found, 0.5)
        return verdict, verdict_words(verdict, found, unit)
    sides = ({g for g, own in zip(groups, truth, strict=True) if own == k} for k in (True, False))
    few = min(map(len, sides)) < MIN_PATIENTS
    side = "its side" if found.value else "the wrong side"
    words = f"every {item} on {side}: no interval can be given"
    words += f", with fewer than {MIN_PATIENTS} {unit} of a class" if few else ""
    if few:
        return "unclear", words
    return ("good" if found.value else "poor"), words
