"""Scores and verdicts of a run's slides, as exports state them."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME
from pathology_scaat.evaluation.performance.predictions import (
    HOW_NAME,
    Prediction,
    read_how,
    read_predictions,
)
from pathology_scaat.export.slide_findings import ReaderVerdict, SlideFindings, SlideScore
from pathology_scaat.review.verdicts import WHOLE_SLIDE, VerdictTable


def slide_findings(out: Path) -> dict[str, SlideFindings]:
    """What ``predictions.csv`` and ``review/verdicts.csv`` say, by slide id.

    Readers become numbers, in the order of their names; notes are left out, since they may hold
    anything. A score is given only where it is recorded which model made it.

    Raises
    ------
    StoreError
        If one of the tables is there and damaged.
    """
    scores = _scores(out)
    verdicts = _verdicts(out)
    return {
        slide_id: SlideFindings(scores.get(slide_id), verdicts.get(slide_id, ()))
        for slide_id in sorted({*scores, *verdicts})
    }


def _scores(out: Path) -> dict[str, SlideScore]:
    how = read_how(out / HOW_NAME)
    models = {m.get("fold"): m for m in how.get("models", ()) if isinstance(m, dict)}
    if not models or not (out / PREDICTIONS_NAME).is_file():
        return {}
    rows, names = read_predictions(out / PREDICTIONS_NAME)
    positive = str(how.get("positive_class", names[-1]))
    return {
        row.slide_id: _score(row, names, positive, models[row.fold], str(how.get("rule", "")))
        for row in rows
        if row.fold in models
    }


def _score(
    row: Prediction, names: tuple[str, ...], positive: str, model: dict[str, str], rule: str
) -> SlideScore:
    return SlideScore(
        model_fingerprints=(str(model["fingerprint"]),),
        probabilities=tuple(zip(names, map(float, row.probability), strict=True)),
        threshold=row.threshold,
        called=row.called(names, positive),
        split=row.split,
        rule=rule,
        calibration=str(model.get("calibration", "")),
    )


def _verdicts(out: Path) -> dict[str, tuple[ReaderVerdict, ...]]:
    current = VerdictTable(out).current().values()
    numbers = {name: k for k, name in enumerate(sorted({v.reviewer for v in current}), start=1)}
    found: dict[str, list[ReaderVerdict]] = {}
    for v in current:
        region = "" if v.region_id == WHOLE_SLIDE else v.region_id
        found.setdefault(v.slide_id, []).append(
            ReaderVerdict(numbers[v.reviewer], region, v.target_class, v.answer, v.blind)
        )
    return {
        slide_id: tuple(sorted(rows, key=lambda v: (v.region_id, v.reader)))
        for slide_id, rows in found.items()
    }
