"""What both demos say of their maps: the tables and the JSON of the scores where truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pathology_scaat.demo.cohort import POSITIVE_CLASS, DemoSlide
from pathology_scaat.evaluation.ground_truth import MapScore, map_score
from pathology_scaat.system.rounding import decimals

TRUTH_CLASS = POSITIVE_CLASS

MAPS = {
    "evidence": "evidence",
    "saliency": "saliency",
    "probability": "probability",
    "nuclear_stain": "nuclear stain alone",
}
"""What ranks the pixels (a field of :class:`MapScore`), and its heading."""


def score_maps(results: Path, slides: Sequence[DemoSlide]) -> tuple[MapScore, ...]:
    """The maps of some slides of a demo against what was planted in them."""
    return tuple(
        map_score(results, s.slide_id, s.truth_path, TRUTH_CLASS, s.slide_path, s.mpp)
        for s in slides
    )


def score_rows(maps: Sequence[MapScore]) -> list[list[str]]:
    """Rows of the closing table, the head first: pixel average precision by slide."""
    rows = [["slide", *MAPS.values(), "chance"]]
    rows += [
        [
            score.slide_id,
            *(decimals(getattr(score, name).pixel_ap) for name in MAPS),
            decimals(score.saliency.chance),
        ]
        for score in maps
    ]
    return rows


def mean_precision(maps: Sequence[MapScore]) -> dict[str, float]:
    """Mean pixel average precision over at least one map, by what ranks the pixels."""
    found = {name: fmean(getattr(score, name).pixel_ap for score in maps) for name in MAPS}
    return {**found, "chance": fmean(score.saliency.chance for score in maps)}


def scores_as_json(maps: Sequence[MapScore]) -> dict[str, Any]:
    """All scores by slide, as ``demo.json`` keeps them."""
    return {
        score.slide_id: {name: getattr(score, name).as_dict() for name in MAPS} for score in maps
    }
