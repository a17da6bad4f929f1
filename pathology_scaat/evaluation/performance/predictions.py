"""Predictions for slides and patients as a table: written once, read by everything else."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import read_json, write_text_if_changed
from pathology_scaat.artifacts.checksums import checked_json_text
from pathology_scaat.artifacts.table_cells import from_cell, safe_cell
from pathology_scaat.errors import StoreError
from pathology_scaat.system.rounding import significant

PATIENTS_NAME = "predictions_patients.csv"
HOW_NAME = "predictions.json"
"""How the predictions of slides came about, and by which models."""
HOW_SCHEMA = "pathology_scaat.predictions"
FIXED_COLUMNS = ("patient_id", "slide_id", "fold", "split", "label")
PROBABILITY_PREFIX = "p_"
FURTHER_COLUMNS = ("uncertainty", "disagreement", "unlike_training", "possible", "refer",
                   "refer_reason", "model")  # fmt: skip
NO_CLASS = "none"
"""What stands in the column ``possible`` where no class is left."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_LISTED = re.compile(rf"\s*({_QUOTED.pattern}(?=\s*(?:\||$))|[^|]+)")
NOT_CALIBRATED = "not calibrated"
"""How the words on a model's calibration begin where there was none."""
MODEL_HEX = 16
"""Characters of a model's fingerprint in the table."""
EXTERNAL = "external test"
"""Split of the slides of an external test cohort."""
KNOWN_PATIENT = "known patient"
"""Split of slides that the model has not seen, of patients of whom it has seen others."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one slide, or of one patient.

    Attributes
    ----------
    patient_id : str
    slide_id : str
        Empty for a patient.
    fold : int or None
        Fold of cross-validation whose model predicted, which never saw the patient; None where
        there is one model for all.
    split : str
        Part of the slide in the training of that model: ``train``, ``val``, ``test``, ``external
        test``, ``known patient`` where other slides of its patient were trained on, or empty where
        it is not known.
    label : str
        The truth as the manifest gives it; empty where it gives none.
    probability : (K,) float64
        Over the classes; sums to one.
    threshold : float or None
        Probability of the positive class from which the case is called positive.
    unlike_training : float or None
        Share of the slide's patches that are unlike the training data; of a patient the largest
        of its slides. None where the model has no reference.
    disagreement : float or None
        Standard deviation of the positive class's probability over the models that predicted
        together; None where there was one.
    model : str
        Fingerprint of the model that predicted; empty where several did.
    possible : tuple of str, or None
        Classes that remain possible for the patient (conformal prediction); None where that
        cannot be told.
    refer : bool or None
        Whether a pathologist should decide; None where that is not known.
    refer_reason : str
        Why, in words.
    """

    patient_id: str
    slide_id: str
    fold: int | None
    split: str
    label: str
    probability: NDArray[np.float64]
    threshold: float | None = None
    unlike_training: float | None = None
    disagreement: float | None = None
    model: str = ""
    possible: tuple[str, ...] | None = None
    refer: bool | None = None
    refer_reason: str = ""

    @property
    def uncertainty(self) -> float:
        """Entropy of the probabilities over that of a guess: 0 is certain, 1 undecided."""
        p = np.maximum(self.probability, 1e-300)
        return float(-(p * np.log(p)).sum() / math.log(max(len(p), 2)))

    def called(self, class_names: Sequence[str], positive: str) -> str:
        """The class that is predicted: by the threshold of two classes, else the likeliest."""
        if len(class_names) == 2 and self.threshold is not None:
            at = list(class_names).index(positive)
            return class_names[at if self.probability[at] >= self.threshold else 1 - at]
        return class_names[int(self.probability.argmax())]


def write_predictions(
    path: Path, predictions: Sequence[Prediction], class_names: Sequence[str], positive: str
) -> None:
    """Write predictions as CSV, whole or not at all."""
    write_text_if_changed(path, predictions_text(predictions, class_names, positive))


def predictions_text(
    predictions: Sequence[Prediction], class_names: Sequence[str], positive: str
) -> str:
    """Predictions as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *FIXED_COLUMNS, "predicted", "threshold",
            *(PROBABILITY_PREFIX + n for n in class_names), *FURTHER_COLUMNS,
        ]
    )  # fmt: skip
    for row in predictions:
        fold = "" if row.fold is None else row.fold
        possible = None if row.possible is None else _possible_cell(row.possible)
        writer.writerow(
            [
                *map(safe_cell, (row.patient_id, row.slide_id, fold, row.split, row.label)),
                safe_cell(row.called(class_names, positive)),
                _shown(row.threshold),
                *(significant(p, 6) for p in row.probability),
                significant(row.uncertainty),
                _shown(row.disagreement),
                _shown(row.unlike_training),
                safe_cell(possible, sys.maxsize),
                "" if row.refer is None else ("yes" if row.refer else "no"),
                safe_cell(row.refer_reason),
                row.model[:MODEL_HEX],
            ]
        )
    return text.getvalue()


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def write_how(path: Path, how: Mapping[str, Any]) -> None:
    """Write how the predictions came about: rule, calibration, fingerprints of the models."""
    write_text_if_changed(
        path, checked_json_text({"schema": HOW_SCHEMA, "schema_version": 1, **how})
    )


def read_how(path: Path) -> dict[str, Any]:
    """How the predictions came about; empty where that is not recorded, or damaged."""
    try:
        value = read_json(path)
    except (StoreError, OSError):
        return {}
    return value if value.get("schema") == HOW_SCHEMA else {}


def read_predictions(path: Path) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
    """Predictions and class names of a table.

    Raises
    ------
    StoreError
        If it is missing or no table of predictions.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return parse_predictions(stream)
    except FileNotFoundError:
        raise StoreError(path.name, "is not there", "run 'scaat predict' first") from None
    except (OSError, ValueError, KeyError, csv.Error, UnicodeDecodeError):
        raise StoreError(
            path.name, "is not a table of predictions", "make it again with 'scaat predict'"
        ) from None


def parse_predictions(lines: Iterable[str]) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
    """Predictions and class names of the lines of a table.

    Raises
    ------
    ValueError, KeyError, csv.Error
        If it is no table of predictions.
    """
    reader = csv.DictReader(lines)
    header = tuple(reader.fieldnames or ())
    names = tuple(
        h.removeprefix(PROBABILITY_PREFIX) for h in header if h.startswith(PROBABILITY_PREFIX)
    )
    if not set(FIXED_COLUMNS) <= set(header) or not names:
        raise ValueError("columns")
    rows = tuple(
        Prediction(
            from_cell(row["patient_id"]),
            row["slide_id"],
            int(row["fold"]) if row["fold"] else None,
            row["split"],
            from_cell(row["label"]),
            np.array([float(row[PROBABILITY_PREFIX + n]) for n in names]),
            _number(row.get("threshold")),
            _number(row.get("unlike_training")),
            _number(row.get("disagreement")),
            row.get("model") or "",
            _possible(row.get("possible"), names),
            {"yes": True, "no": False}.get(row.get("refer") or ""),
            row.get("refer_reason") or "",
        )
        for row in reader
    )
    return rows, names


def _number(cell: str | None) -> float | None:
    return float(cell) if cell else None


def _possible(cell: str | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    if not cell:
        return None
    if cell == NO_CLASS:
        return ()
    parts = [part.strip() for part in _LISTED.findall(from_cell(cell))]
    listed = {json.loads(p) if _QUOTED.fullmatch(p) else p for p in parts}
    return tuple(name for name in names if name in listed)


def _possible_cell(names: Sequence[str]) -> str:
    """Names of classes in a cell; in quotes, as in JSON, those that would be read as others."""
    return (
        " | ".join(
            json.dumps(name, ensure_ascii=False)
            if "|" in name or name.startswith('"') or name == NO_CLASS
            else name
            for name in names
        )
        or NO_CLASS
    )


MEAN_RULE = "a patient's probability is the mean over the patient's slides"
LARGEST_RULE = (
    "slides of some patients have different labels: of every patient the slide with the largest "
    "probability of the positive class counts, and one positive slide makes a patient positive; "
    "where nothing that validation cases chose is kept with the model, the mean is taken in a "
    "cohort without labels, of which no figure here speaks"
)
"""How patients are pooled where the slides of any patient differ in label."""
KEPT_RULES: dict[str, str] = {
    "mean": f"{MEAN_RULE}, as when the model was made",
    "largest": "of every patient the slide with the largest probability of the positive class "
    "counts, and one positive slide makes a patient positive, as when the model was made",
}
"""The same where it was settled when the model was made, by labels there."""


def slides_differ(predictions: Iterable[Prediction]) -> bool:
    """Whether any patient's slides have different labels, within a split and fold."""
    labels: dict[tuple[str, int | None, str], set[str]] = {}
    for row in predictions:
        if row.label:
            labels.setdefault((row.patient_id, row.fold, row.split), set()).add(row.label)
    return any(len(own) > 1 for own in labels.values())


def patient_rule(predictions: Iterable[Prediction], class_names: Sequence[str]) -> str:
    """How these slides became patients, in words."""
    if not slides_differ(predictions):
        return MEAN_RULE
    if len(class_names) == 2:
        return LARGEST_RULE
    return f"{MEAN_RULE}; patients whose slides have different labels have no label"


def by_patient(
    predictions: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    largest: bool | None = None,
) -> tuple[Prediction, ...]:
    """One prediction a patient, by :func:`patient_rule`; of each split and fold by itself.

    ``largest`` says which rule it is, where the labels here are not to settle it. With more than
    two classes patients whose slides differ in label get none (an empty label).
    """
    groups: dict[tuple[str, int | None, str], list[Prediction]] = {}
    for row in predictions:
        groups.setdefault((row.patient_id, row.fold, row.split), []).append(row)
    binary = len(class_names) == 2
    at = list(class_names).index(positive)
    # One rule for all: whether any patient's slides differ decides how all are pooled.
    differ = binary and (slides_differ(predictions) if largest is None else largest)
    found = []
    for (patient, fold, split), rows in groups.items():
        labels = {r.label for r in rows if r.label}
        stacked = np.stack([r.probability for r in rows])
        probability = stacked[stacked[:, at].argmax()] if differ else stacked.mean(axis=0)
        if binary and positive in labels:
            label = positive
        else:
            label = labels.pop() if len(labels) == 1 else ""
        models = {r.model for r in rows}
        spreads = [r.disagreement for r in rows if r.disagreement is not None]
        found.append(
            Prediction(
                patient, "", fold, split, label, probability,
                disagreement=max(spreads) if spreads else None,
                model=models.pop() if len(models) == 1 else "",
            )
        )  # fmt: skip
    return tuple(found)
