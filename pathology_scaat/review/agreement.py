"""How far reviewers agree with each other and with the model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pathology_scaat.review.verdicts import WHOLE_SLIDE, Verdict, histories

DEFINITE = ("yes", "no")
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa of two readers over the regions that both decided.

    ``low`` and ``high`` bound 95 % of a bootstrap over slides (regions of a slide are alike); NaN
    where fewer than two slides are shared or the statistic is undefined.
    """

    readers: tuple[str, str]
    n_regions: int
    n_slides: int
    kappa: float
    low: float
    high: float


@dataclass(frozen=True)
class Moved:
    """How far the map moved one reader, over the regions that were first judged blind.

    Every region was marked by the model: ``to_yes`` are answers that went over to it.

    Attributes
    ----------
    n_blind : int
        Regions with a blind answer.
    n_changed : int
        Of them, those whose answer after the map was another one.
    to_yes, from_yes : int
        Of the changed ones, those that became yes, or were yes before.
    """

    n_blind: int
    n_changed: int
    to_yes: int
    from_yes: int


@dataclass(frozen=True)
class Agreement:
    """Agreement of all pairs of readers, and the share of regions that each confirmed.

    Attributes
    ----------
    pairs : tuple of Kappa
    confirmed : mapping
        For each reader (regions confirmed, regions decided): the model marked all of them, so
        that this is its precision by that reader's judgement, not a sensitivity.
    moved : mapping
        For each reader who judged blind, what seeing the map changed.
    """

    pairs: tuple[Kappa, ...]
    confirmed: dict[str, tuple[int, int]]
    moved: dict[str, Moved] = field(default_factory=dict)


def moved_by_maps(rows: Iterable[Verdict]) -> dict[str, Moved]:
    """What changed from the blind answer to the one that holds, by reader.

    Parameters
    ----------
    rows : iterable of Verdict
        All rows as written, with those that were taken back.
    """
    pairs: dict[str, list[tuple[str, str]]] = {}
    for (reader, _, region), answers in histories(rows).items():
        if region != WHOLE_SLIDE and answers and answers[0].blind:
            pairs.setdefault(reader, []).append((answers[0].answer, answers[-1].answer))
    found = {}
    for reader, mine in sorted(pairs.items()):
        changed = [(before, after) for before, after in mine if before != after]
        found[reader] = Moved(
            len(mine), len(changed),
            sum(after == "yes" for _, after in changed),
            sum(before == "yes" for before, _ in changed),
        )  # fmt: skip
    return found


def agreement_of(verdicts: Iterable[Verdict], seed: int = 0) -> Agreement:
    """Agreement over the verdicts that hold; "unsure" decides nothing and is left out."""
    by_reader: dict[str, dict[tuple[str, str], str]] = {}
    for verdict in verdicts:
        if verdict.region_id != WHOLE_SLIDE and verdict.answer in DEFINITE:
            key = (verdict.slide_id, verdict.region_id)
            by_reader.setdefault(verdict.reviewer, {})[key] = verdict.answer
    pairs = tuple(
        _kappa((a, b), by_reader[a], by_reader[b], seed)
        for a, b in itertools.combinations(sorted(by_reader), 2)
    )
    confirmed = {
        reader: (sum(answer == "yes" for answer in answers.values()), len(answers))
        for reader, answers in sorted(by_reader.items())
    }
    return Agreement(pairs, confirmed)


def _kappa(
    readers: tuple[str, str],
    first: dict[tuple[str, str], str],
    second: dict[tuple[str, str], str],
    seed: int,
) -> Kappa:
    shared = sorted(first.keys() & second.keys())
    slides = sorted({slide for slide, _ in shared})
    answers = [(slide, first[(slide, r)], second[(slide, r)]) for slide, r in shared]
    value = _statistic(answers)
    low, high = _interval(answers, slides, seed)
    return Kappa(readers, len(shared), len(slides), value, low, high)


def _statistic(answers: Sequence[tuple[str, str, str]]) -> float:
    if not answers or len({a for _, *pair in answers for a in pair}) < 2:
        return math.nan  # without both answers chance agreement is certain and kappa undefined
    from sklearn.metrics import cohen_kappa_score  # a second of start-up for those who need none

    return float(cohen_kappa_score([a for _, a, _ in answers], [b for _, _, b in answers]))


def _interval(
    answers: Sequence[tuple[str, str, str]], slides: Sequence[str], seed: int
) -> tuple[float, float]:
    if len(slides) < 2:
        return math.nan, math.nan
    groups = {s: [row for row in answers if row[0] == s] for s in slides}
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(N_RESAMPLES):
        drawn = rng.integers(0, len(slides), len(slides))
        values.append(_statistic([row for i in drawn for row in groups[slides[i]]]))
    known = [v for v in values if not math.isnan(v)]
    if len(known) < N_RESAMPLES / 2:
        return math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
