"""Excel workbooks (.xlsx) as tables: the one sheet that holds something, ids as they are shown.

Needs openpyxl (``pip install pathology-scaat[xlsx]``). What a workbook cannot say for sure is
refused: several sheets with content, a formula that was never computed, an error value.
"""

from __future__ import annotations

import datetime
import io
import zipfile
from typing import Any

from pathology_scaat.cohort.retyped import in_lines, refuse_long_number
from pathology_scaat.errors import ManifestError

MARK = b"PK\x03\x04"
MAX_UNPACKED_BYTES = 512 << 20
ERROR_VALUES = {"#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"}
_SAVE = "save the sheet as CSV (UTF-8)"

Cells = tuple[list[str], list[list[str]], list[int], tuple[str, ...]]


def read_xlsx(raw: bytes, name: str, most_rows: int) -> Cells:
    """Heading, rows, the line of each row, and notes, of a workbook's only filled sheet.

    Raises
    ------
    ManifestError
        If openpyxl is missing, the file is no workbook or too large, several sheets hold
        something, cells are merged, or a cell has no value that can be taken as it is.
    """
    try:
        import openpyxl
    except ImportError:
        raise ManifestError(
            name, "is an Excel workbook, which needs openpyxl",
            "install pathology-scaat[xlsx], or save the sheet as CSV (UTF-8)",
        ) from None  # fmt: skip
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > MAX_UNPACKED_BYTES:
            raise ManifestError(name, f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB", _SAVE)
        values = openpyxl.load_workbook(io.BytesIO(raw), data_only=True)
        formulas = openpyxl.load_workbook(io.BytesIO(raw))
    except ManifestError:
        raise
    except Exception:  # whatever the reader says of a damaged file
        raise ManifestError(name, "is no readable Excel workbook (.xlsx)", _SAVE) from None
    filled = [s.title for s in values.worksheets if _lines(s)]
    written = [s.title for s in formulas.worksheets if _lines(s)]
    sheets = list(dict.fromkeys([*filled, *written]))
    if len(sheets) > 1:
        raise ManifestError(
            name,
            f"has {len(sheets)} sheets with content ({', '.join(sheets[:5])})",
            "keep one, or save the one that is meant as CSV",
        )
    if not sheets:
        raise ManifestError(name, "is empty", "add a heading line and a row for each slide")
    return _cells(values[sheets[0]], formulas[sheets[0]], name, most_rows)


def _lines(sheet: Any) -> bool:
    """Whether any cell holds something; sheets of charts hold none."""
    rows = getattr(sheet, "iter_rows", None)
    return rows is not None and any(any(v is not None for v in r) for r in rows(values_only=True))


def _cells(values: Any, formulas: Any, name: str, most_rows: int) -> Cells:
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    hidden: list[int] = []
    _refuse_merged(formulas, name)
    for line, (shown, written) in enumerate(
        zip(values.iter_rows(), formulas.iter_rows(values_only=True), strict=True),
        start=1,
    ):
        cells = []
        for cell, source in zip(shown, written, strict=True):
            if cell.value is None and source is not None:
                raise ManifestError(
                    f"{name}, line {line}",
                    "has a formula whose value is not in the file",
                    "open and save it in Excel or LibreOffice, or save it as CSV",
                )
            cells.append(_text(cell, f"{name}, line {line}"))
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            while cells and not cells[-1].strip():
                cells.pop()
            header = cells
            continue
        if any(cell.strip() for cell in cells[len(header) :]):
            raise ManifestError(
                f"{name}, line {line}", "has a value outside of the heading's columns",
                "give every column a heading",
            )  # fmt: skip
        if len(rows) >= most_rows:
            raise ManifestError(name, f"has more than {most_rows} rows", "split the cohort")
        rows.append((cells + [""] * len(header))[: len(header)])
        lines.append(line)
        if formulas.row_dimensions[line].hidden:
            hidden.append(line)
    notes = (f"{in_lines(hidden)} of the sheet: hidden (by a filter, say), but read like "
             "the others: delete what is not meant",) if hidden else ()  # fmt: skip
    return header, rows, lines, notes


def _refuse_merged(sheet: Any, name: str) -> None:
    """Of merged cells only the first has a value: a patient of several rows would be lost."""
    for merged in sheet.merged_cells.ranges:
        if merged.max_row > merged.min_row:
            raise ManifestError(
                f"{name}, line {merged.min_row}",
                f"has merged cells ({merged.coord}), of which only the first has a value",
                "unmerge them, and write the value in each row",
            )


def _text(found: Any, where: str) -> str:
    """A cell's value as text; a number in a format of zeros (0007) keeps its zeros."""
    cell = found.value
    zeros = str(found.number_format)
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        refuse_long_number(cell, where)
    if isinstance(cell, int | float) and cell == int(cell) and zeros.strip("0") == "" and zeros:
        return str(int(cell)).zfill(len(zeros))
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell)
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    if isinstance(cell, datetime.date | datetime.time | datetime.datetime):
        return cell.isoformat()
    if isinstance(cell, str):
        if cell in ERROR_VALUES:
            raise ManifestError(where, f"has the error value {cell}", "mend it in the spreadsheet")
        return cell
    if isinstance(cell, int | float):
        return str(cell)
    raise ManifestError(where, "has a cell that is neither text nor number", _SAVE)
