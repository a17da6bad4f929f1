"""A column of the manifest that is neither slide nor label: a site, a scanner, a sex."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.cohort.table import read_table
from pathology_scaat.errors import ManifestError
from pathology_scaat.system.look_alikes import look_alikes
from pathology_scaat.system.names import name_key, normal_name, one_spelling, respelled

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


def groups_of(
    tables: Sequence[tuple[Path, Manifest]], name: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Cells of a column whose equal values make a group, such as a site; in one spelling each.

    A site that is written in two ways would be two sites: trained on under one name, and tested
    on under the other.

    Parameters
    ----------
    tables : sequence of (Path, Manifest)
        Each table with the cohort that was read from it; all must have the column.
    name : str

    Returns
    -------
    (dict of slide id to str, tuple of str)
        The cells, in the spelling that is met first, and what is to be said of it.

    Raises
    ------
    ManifestError
        If a table lacks the column, or has changed since its cohort was read.
    """
    cells: dict[str, str] = {}
    for table, cohort in tables:
        cells.update(column_of(table, name, cohort))
    kept = one_spelling(cells.values())
    # Notes are kept beside results: they name slides, and not what a table says of them.
    first: dict[str, str] = {}
    for slide, cell in cells.items():
        first.setdefault(normal_name(cell), slide)
    notes = [
        f"column {name} of slide '{first[other]}' ({count} {'row' if count == 1 else 'rows'}) is "
        f"that of slide '{first[kept[name_key(other)]]}' in another spelling: they are one value"
        for other, count in respelled(map(normal_name, cells.values()), kept).items()
    ]
    notes += [
        f"column {name} of slides '{first[one]}' and '{first[other]}' has values that {why}: if "
        "they are one value, write them alike"
        for one, other, why in look_alikes(kept.values())
    ]
    return {slide: kept[name_key(cell)] for slide, cell in cells.items()}, tuple(notes)


def columns_of(
    tables: Sequence[tuple[Path, Manifest]], names: Sequence[str]
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Cells of several columns, read from several tables.

    Parameters
    ----------
    tables : sequence of (Path, Manifest)
        Each table with the cohort that was read from it: a cohort, and its external test.
    names : sequence of str
        Columns, which every table must have.

    Returns
    -------
    (dict of column name to dict of slide id to str, tuple of str)
        Empty cells, and words such as "unknown", are left out; what is to be said of spellings.

    Raises
    ------
    ManifestError
        If a table lacks a column, or has changed since its cohort was read.
    """
    found: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for name in names:
        found[name], said = groups_of(tables, name)
        notes += said
    return found, tuple(notes)
