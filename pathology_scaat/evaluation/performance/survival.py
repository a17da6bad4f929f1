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
from pathology_scaat.artifacts.status import safe_cell
from pathology_scaat.evaluation.performance.bootstrap import N_RESAMPLES, Estimate, intervals
from pathology_scaat.metrics.functional.survival import concordance

SCHEMA_NAME = "pathology_scaat.survival"
SCHEMA_VERSION = 1
MIN_EVENTS = 5
"""With fewer no interval is given: a bootstrap of so few is far too narrow."""
COLUMNS = ("patient_id", "slide_id", "split", "time", "event", "log_hazard", "risk_group", "model")


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
        The larger the earlier the event is expected; its zero means nothing.
    high : bool
        Whether it is above the median of the training patients.
    time, event : float, bool or None
        The truth, where the table gives it.
    """

    patient_id: str
    slide_ids: tuple[str, ...]
    split: str
    log_hazard: float
    high: bool
    time: float | None = None
    event: bool | None = None
    model: str = ""

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
                one.split,
                "" if one.time is None else f"{one.time:g}",
                "" if one.event is None else int(one.event),
                f"{one.log_hazard:.6g}",
                "high" if one.high else "low",
                one.model[:16],
            ]
        )
    write_text_if_changed(path, text.getvalue())


def measure_risks(risks: Sequence[Risk], evaluated_on: str, *, seed: int = 0) -> dict[str, Any]:
    """Harrell's C-index with its interval over patients, as a record for JSON.

    Parameters
    ----------
    risks : sequence of Risk
        Those without a known outcome take no part.
    evaluated_on : str
        In words.
    seed : int
        Of the bootstrap.
    """
    known = [r for r in risks if r.is_known]
    time = np.array([r.time for r in known], np.float64)
    event = np.array([r.event for r in known], bool)
    risk = np.array([r.log_hazard for r in known], np.float64)

    def measures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"c_index": concordance(risk, time, event, weights)}

    found = {"c_index": Estimate(None)}
    if known:
        enough = int(event.sum()) >= MIN_EVENTS
        patients = [r.patient_id for r in known]
        found = intervals(measures, patients, with_intervals=enough, seed=seed)
    estimate = found["c_index"]
    return {
        "schema": SCHEMA_NAME,
        "schema_version": SCHEMA_VERSION,
        "evaluated_on": evaluated_on,
        "unit": "patient",
        "n": len(known),
        "n_events": int(event.sum()),
        "c_index": estimate.value,
        "intervals_95": {
            "c_index": None if estimate.low is None else [estimate.low, estimate.high]
        },
        "definition": "Harrell's C: share of pairs of patients, of whom it is known who had the "
        "event first, that the log hazard orders so; equal log hazards count half, two events at "
        "one time are no pair",
        "intervals": f"95 %, percentiles of {N_RESAMPLES} bootstrap samples of patients; none with "
        f"fewer than {MIN_EVENTS} events, or where all samples agree",
    }


def survival_markdown(record: Mapping[str, Any]) -> str:
    """The record in words."""
    limits = record["intervals_95"]["c_index"] or (None, None)
    estimate = Estimate(record["c_index"], *limits)
    return "\n".join(
        [
            "# Performance",
            "",
            f"On {record['evaluated_on']}: {record['n']} patients, {record['n_events']} events.",
            "",
            f"C-index {estimate.text()}.",
            "",
            f"{record['definition']}.",
            "",
            f"In brackets: {record['intervals']}.",
            "",
            *(f"- {note}" for note in record.get("notes", ())),
            "",
        ]
    )


def write_survival(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``performance.json`` (with its checksum) and ``performance.md``."""
    write_text_if_changed(folder / "performance.json", checked_json_text(dict(record)))
    write_text_if_changed(folder / "performance.md", survival_markdown(record))
