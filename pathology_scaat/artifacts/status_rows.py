"""Rows of ``slides.csv``: read from its bytes or made from a folder's artifacts, and changed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.output_names import id_of_record
from pathology_scaat.artifacts.status_columns import (
    COLUMNS,
    FACTS,
    STAGES,
    STATES,
    Fact,
    Stage,
    State,
    StatusChange,
)
from pathology_scaat.artifacts.table_cells import id_cell, safe_cell
from pathology_scaat.system.text_table import decode_table, split_delimiter


def parse_rows(raw: bytes) -> list[dict[str, str]]:
    """Rows of a status table, with the columns of this version.

    Raises
    ------
    ValueError
        If it is none, or ends in the middle; the message says which.
    NotTextError
        If it is no text.
    csv.Error
        If it is no table.
    """
    text, _ = decode_table(raw)
    if not text.strip():
        raise ValueError("is empty")
    delimiter, text, _ = split_delimiter(text)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = list(reader)
    header = list(reader.fieldnames or ())
    if not {"slide_id", *STAGES} <= set(header):
        raise ValueError("is not a status table")
    if any(not row["slide_id"] for row in rows) or any(row[header[-1]] is None for row in rows):
        raise ValueError("ends in the middle of a row")
    return [{c: row.get(c) or "" for c in COLUMNS} for row in rows]


def rows_of_artifacts(out_dir: Path) -> list[dict[str, str]]:
    """Rows for the artifacts that are there: what is in the folder is what was done."""
    space = Workspace(out_dir)
    there: dict[Stage, set[str]] = {
        "tile": set(space.slide_ids_with("tile")),
        "explain": set(space.slide_ids_with("explain")),
        "stitch": set(space.slide_ids_with("stitch")),
        "export": {id_of_record(path.name) for path in space.overlays.glob("*.json")},
    }
    rows = []
    for slide_id in sorted(set().union(*there.values())):
        row = new_row(id_cell(slide_id))
        row |= {stage: "done" for stage in STAGES if slide_id in there[stage]}
        rows.append(row)
    return rows


def new_row(slide_id: str) -> dict[str, str]:
    """The row of a slide of which nothing has been done: all stages ``pending``."""
    return dict.fromkeys(COLUMNS, "") | dict.fromkeys(STAGES, "pending") | {"slide_id": slide_id}


def known_change(change: StatusChange) -> StatusChange:
    """The change, if its stage, state and facts are those of this version.

    Raises
    ------
    ValueError
        If one of them is not.
    """
    _, stage, state, _, facts = change
    if stage not in STAGES or state not in STATES or not set(facts) <= set(FACTS):
        raise ValueError(f"no such stage, state or fact: {stage}, {state}, {facts}")
    return change


def change_if_known(change: Any) -> StatusChange | None:
    """A change that was read from a file; None where it is of no version of this table."""
    try:
        return known_change(change)
    except (ValueError, TypeError):
        return None


def apply_changes(rows: list[dict[str, str]], changes: Iterable[StatusChange]) -> None:
    """Apply changes to rows, in place; slides without a row get one at the end."""
    by_id = {row["slide_id"]: row for row in rows}
    for slide_id, stage, state, reason, facts in changes:
        key = id_cell(slide_id)
        if key not in by_id:
            by_id[key] = new_row(key)
            rows.append(by_id[key])
        _apply(by_id[key], stage, state, reason, facts)


def _apply(
    row: dict[str, str], stage: Stage, state: State, reason: str, facts: Mapping[str, Fact]
) -> None:
    had_failed = row[stage] in {"failed", "skipped"}
    row[stage] = state
    if reason:
        row["reason"] = safe_cell(reason)
    elif had_failed or not any(row[s] in {"failed", "skipped"} for s in STAGES):
        row["reason"] = ""
    for name, value in facts.items():
        if value is not None:
            row[name] = safe_cell(value)
