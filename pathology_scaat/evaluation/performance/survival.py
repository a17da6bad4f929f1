"""Predicted risks of patients as a table, and how well they order who had the event first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import write_text_if_changed
from pathology_scaat.artifacts.checksums import checked_json_text
from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.artifacts.table_cells import safe_cell
from pathology_scaat.evaluation.performance.bootstrap import N_RESAMPLES, Estimate, intervals
from pathology_scaat.evaluation.performance.report_files import (
    LOOKS,
    estimates_csv,
    note_lines,
    warning_lines,
)
from pathology_scaat.evaluation.performance.subgroups import NOT_COMPARED, patient_groups
from pathology_scaat.metrics.functional.survival import concordance
from pathology_scaat.system.markdown import cell, without_tags

SCHEMA_NAME = "pathology_scaat.survival"
SCHEMA_VERSION = 1
MIN_EVENTS = 5
"""With fewer no interval is given: a bootstrap of so few is far too narrow."""
COLUMNS = ("patient_id", "slide_id", "fold", "split", "time", "event", "log_hazard", "disagreement",
           "risk_group", "model")  # fmt: skip
ONE_FOLD = (
    "pairs are of patients of one fold: log hazards of the heads of two folds have no common zero, "
    "and are not compared"
)
NO_REFERRAL = (
    "a log hazard orders patients and is no probability: conformal prediction is of classes alone"
)


@dataclass(frozen=True)
class Risk:
    """What a Cox head says of one patient.

    Attributes
    ----------
    slide_ids : tuple of str
        The slides that were looked at together.
    split : str
        Part in the training of the head.
    log_hazard : float
        The larger the earlier the event is expected; its zero means nothing. Of several heads
        together the mean of what each puts above its training patients' median.
    high : bool
        Whether it is above the median of the training patients.
    time, event : float, bool or None
        The truth, where the table gives it.
    model : str
        Fingerprint of the head; empty where several predicted.
    fold : int or None
        Fold of cross-validation whose head predicted, which never saw the patient.
    disagreement : float or None
        Standard deviation over the heads that predicted together.
    """

    patient_id: str
    slide_ids: tuple[str, ...]
    split: str
    log_hazard: float
    high: bool
    time: float | None = None
    event: bool | None = None
    model: str = ""
    fold: int | None = None
    disagreement: float | None = None

    @property
    def is_known(self) -> bool:
        return self.time is not None and self.event is not None


def write_risks(path: Path, risks: Sequence[Risk]) -> None:
    """Write risks as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in risks:
        writer.writerow(
            [
                safe_cell(one.patient_id),
                safe_cell("; ".join(one.slide_ids)),
                "" if one.fold is None else one.fold,
                one.split,
                "" if one.time is None else f"{one.time:g}",
                "" if one.event is None else int(one.event),
                f"{one.log_hazard:.6g}",
                "" if one.disagreement is None else f"{one.disagreement:.6g}",
                "high" if one.high else "low",
                one.model[:16],
            ]
        )
    write_text_if_changed(path, text.getvalue())


@dataclass(frozen=True)
class Concordance:
    """Harrell's C-index of some patients; its value is None where no pair can be compared."""

    n: int
    n_events: int
    estimate: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        e = self.estimate
        return {
            "n": self.n,
            "n_events": self.n_events,
            "c_index": e.value,
            "intervals_95": {"c_index": None if e.low is None else [e.low, e.high]},
        }


def concordance_of(risks: Sequence[Risk], seed: int = 0) -> Concordance:
    """C-index with its interval over patients; of several folds over the pairs within each."""
    known = [r for r in risks if r.is_known]
    time = np.array([r.time for r in known], np.float64)
    event = np.array([r.event for r in known], bool)
    risk = np.array([r.log_hazard for r in known], np.float64)
    folds = np.array([-1 if r.fold is None else r.fold for r in known], np.int64)

    def measures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"c_index": concordance(risk, time, event, weights, folds)}

    found = {"c_index": Estimate(None)}
    if known:
        enough = int(event.sum()) >= MIN_EVENTS
        patients = [r.patient_id for r in known]
        found = intervals(measures, patients, with_intervals=enough, seed=seed)
    return Concordance(len(known), int(event.sum()), found["c_index"])


def measure_risks(
    risks: Sequence[Risk],
    evaluated_on: str,
    *,
    subgroups: Mapping[str, Mapping[str, str]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Harrell's C-index with its interval over patients, as a record for JSON.

    Parameters
    ----------
    risks : sequence of Risk
        Those without a known outcome take no part.
    evaluated_on : str
        In words.
    subgroups : mapping of column to (mapping of slide id to value), optional
        Columns of the manifest by which the same patients are measured in groups.
    seed : int
        Of the bootstrap.

    Raises
    ------
    ManifestError
        If a column has too many values.
    """
    known = [r for r in risks if r.is_known]
    folds = sorted({r.fold for r in known if r.fold is not None})
    groups: dict[str, dict[str, Any]] = {}
    for column, value_of in (subgroups or {}).items():
        of = patient_groups(
            ((r.patient_id, slide) for r in known for slide in r.slide_ids), value_of, column
        )
        groups[column] = {
            value: concordance_of([r for r in known if of[r.patient_id] == value], seed).as_dict()
            for value in sorted(set(of.values()))
        }
    return {
        "schema": SCHEMA_NAME,
        "schema_version": SCHEMA_VERSION,
        "evaluated_on": evaluated_on,
        "unit": "patient",
        **concordance_of(known, seed).as_dict(),
        "definition": "Harrell's C: share of pairs of patients, of whom it is known who had the "
        "event first, that the log hazard orders so; equal log hazards count half, two events at "
        f"one time are no pair{'; ' + ONE_FOLD if folds else ''}",
        "intervals": f"95 %, percentiles of {N_RESAMPLES} bootstrap samples of patients; none with "
        f"fewer than {MIN_EVENTS} events, or where all samples agree",
        "folds": {
            str(f): concordance_of([r for r in known if r.fold == f], seed).as_dict() for f in folds
        },
        "subgroups": groups,
        "abstention": {"not_given": NO_REFERRAL},
        "predictions_fingerprint": fingerprint(
            {
                "rows": [
                    [r.patient_id, r.fold, r.split, r.time, r.event, f"{r.log_hazard:.6g}"]
                    for r in sorted(known, key=lambda r: r.patient_id)
                ]
            }
        ),
    }


def _estimate(record: Mapping[str, Any]) -> Estimate:
    low, high = record["intervals_95"]["c_index"] or (None, None)
    return Estimate(record["c_index"], low, high)


def _table(heading: str, parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"| {heading} | patients | events | C-index |",
        "|---|---|---|---|",
        *(
            f"| {cell(name)} | {one['n']} | {one['n_events']} | {_estimate(one).text()} |"
            for name, one in parts.items()
        ),
        "",
    ]


def survival_markdown(record: Mapping[str, Any]) -> str:
    """The record in words."""
    lines = [
        "# Performance",
        "",
        *warning_lines(record.get("notes", ())),
        f"On {record['evaluated_on']}: {record['n']} patients, {record['n_events']} events.",
        "",
        f"C-index {_estimate(record).text()}.",
        "",
        f"{record['definition']}.",
        "",
        f"In brackets: {record['intervals']}.",
        "",
    ]
    if record.get("folds"):
        lines += ["## Folds (patients)", "", *_table("fold", record["folds"])]
    for column, parts in record.get("subgroups", {}).items():
        lines += [f"## By {column} (patients)", "", *_table(column, parts), NOT_COMPARED, ""]
    lines += ["## Refer to a pathologist", "", f"Not given: {NO_REFERRAL}.", ""]
    lines += note_lines(record.get("notes", ()))
    if looks := record.get("earlier_looks_at_these_cases"):
        lines.append(LOOKS.format(n=looks))
    return without_tags("\n".join([*lines, ""]))


def survival_csv(record: Mapping[str, Any]) -> str:
    """The record as a table of the columns that performance has of classes."""
    rows = [("patient", "all", record)]
    rows += [("patient", fold, one) for fold, one in record.get("folds", {}).items()]
    for column, parts in record.get("subgroups", {}).items():
        rows += [(f"patient, {column}={value}", "all", one) for value, one in parts.items()]
    return estimates_csv(
        (unit, fold, "c_index", _estimate(one), int(one["n"])) for unit, fold, one in rows
    )


def survival_files(stem: str) -> tuple[str, ...]:
    """Files of an evaluation of survival."""
    return tuple(f"{stem}.{kind}" for kind in ("json", "csv", "md"))


def write_survival(folder: Path, record: Mapping[str, Any], stem: str = "performance") -> None:
    """Write JSON (with its checksum), CSV and Markdown."""
    write_text_if_changed(folder / f"{stem}.json", checked_json_text(dict(record)))
    write_text_if_changed(folder / f"{stem}.csv", survival_csv(record))
    write_text_if_changed(folder / f"{stem}.md", survival_markdown(record))
