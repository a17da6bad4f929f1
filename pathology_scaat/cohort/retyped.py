"""What spreadsheets make of ids that look like numbers or dates: refused where digits are lost.

A spreadsheet that opens a table of texts turns ``007`` into 7, ``1234567890123456`` into
1.23457E+15 and ``3-1`` into a day. Two patients may so become one, or one patient two, who is
then trained and tested on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pathology_scaat.errors import ManifestError
from pathology_scaat.system.names import name_key

MOST_DIGITS = 15
"""Digits of a number that a spreadsheet keeps."""

_ROUNDED = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_DAY = re.compile(
    rf"[0-9]{{1,2}}-{_MONTH}(?:-[0-9]{{2,4}})?|{_MONTH}-[0-9]{{2}}"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"0*([0-9]+?)(?:\.0)?")
_AS_TEXT = "format the column as text in the spreadsheet, and enter the ids again"
_COLUMNS = ("slide_id", "patient_id", "label")


def refuse_rounded(text: str, column: str, where: str) -> None:
    """Refuse an id in the form in which spreadsheets write long numbers, ``1.23457E+15``.

    Raises
    ------
    ManifestError
        If it has that form.
    """
    if _ROUNDED.fullmatch(text):
        raise ManifestError(
            where, f"has the {column} '{text}', a number of which a spreadsheet dropped digits",
            _AS_TEXT,
        )  # fmt: skip


def refuse_long_number(value: float, where: str) -> None:
    """Refuse a number with more digits than a spreadsheet keeps.

    Raises
    ------
    ManifestError
        If it has.
    """
    if abs(value) >= 10**MOST_DIGITS:
        raise ManifestError(
            where,
            f"has a number of more than {MOST_DIGITS} digits, of which a spreadsheet keeps only "
            f"the first {MOST_DIGITS}",
            _AS_TEXT,
        )


def retyped_notes(cells: Sequence[Mapping[str, str]], lines: Sequence[int]) -> tuple[str, ...]:
    """Sentences about days where ids are wanted, and patients told apart by zeros alone.

    Parameters
    ----------
    cells : sequence of mapping of column to str
        The rows of a table.
    lines : sequence of int
        The line of each. Notes name lines only, since they are kept beside results.
    """
    notes = []
    for column in _COLUMNS:
        days = [n for n, row in zip(lines, cells, strict=True) if _DAY.fullmatch(_of(row, column))]
        if days:
            notes.append(
                f"the {column} of {in_lines(days)} is a day: if a spreadsheet made it of an id "
                "such as 3-1, format the column as text and enter it again"
            )
    spelled: dict[str, dict[str, list[int]]] = {}
    for line, row in zip(lines, cells, strict=True):
        patient = _of(row, "patient_id")
        if found := _NUMBER.fullmatch(patient):
            spelled.setdefault(found[1], {}).setdefault(name_key(patient), []).append(line)
    for several in spelled.values():
        first, *others = several.values()
        if others:
            notes.append(
                f"the patient_id of {in_lines([n for o in others for n in o])} is that of "
                f"{in_lines(first)} but for zeros, which spreadsheets drop: they count as "
                f"{len(several)} patients; if they are one, write them alike"
            )
    return tuple(notes)


def _of(row: Mapping[str, str], column: str) -> str:
    return row.get(column, "").strip()


def in_lines(lines: Sequence[int]) -> str:
    """Numbers of lines for a sentence, the first eight of them."""
    shown = ", ".join(map(str, lines[:8])) + (", ..." if len(lines) > 8 else "")
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}"
