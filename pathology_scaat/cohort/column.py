"""A column of the manifest that is neither slide nor label: a site, a scanner, a sex."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.cohort.table import read_table
from pathology_scaat.errors import ManifestError

UNKNOWN_WORDS = {"", "na", "n/a", "nan", "none", "null", "<na>", "unknown"}
"""Cells that say nothing."""


def column_of(table: Path, name: str, cohort: Manifest) -> dict[str, str]:
    """The cells of a manifest's column by slide id; cells that say nothing are left out.

    Raises
    ------
    ManifestError
        If the table has no such column, or has changed since the cohort was read from it.
    """
    if not table.is_file():
        raise ManifestError(table.name, "is no table", f"give a table with a column {name}")
    read = read_table(table)
    column = read.column(name, table.name)
    if len(read.rows) != len(cohort.rows):
        raise ManifestError(
            table.name,
            f"has {len(read.rows)} rows, and {len(cohort.rows)} slides were read from it",
            "run again once nothing changes it",
        )
    cells = {
        row.slide_id: cells[column].strip()
        for row, cells in zip(cohort.rows, read.rows, strict=True)
    }
    return {s: cell for s, cell in cells.items() if cell.casefold() not in UNKNOWN_WORDS}


def columns_of(
    tables: Sequence[tuple[Path, Manifest]], names: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Cells of several columns, read from several tables.

    Parameters
    ----------
    tables : sequence of (Path, Manifest)
        Each table with the cohort that was read from it: a cohort, and its external test.
    names : sequence of str
        Columns, which every table must have.

    Returns
    -------
    dict of column name to dict of slide id to str
        Empty cells, and words such as "unknown", are left out.

    Raises
    ------
    ManifestError
        If a table lacks a column, or has changed since its cohort was read.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for table, cohort in tables:
            found.setdefault(name, {}).update(column_of(table, name, cohort))
    return found
