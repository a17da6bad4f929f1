"""A cohort table as text cells, from CSV in any of its spellings, Excel workbooks, or Parquet."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.cohort import spreadsheet
from pathology_scaat.cohort.mistaken import not_a_table
from pathology_scaat.cohort.retyped import refuse_long_number
from pathology_scaat.errors import ManifestError
from pathology_scaat.system.text_table import NotTextError, decode_table, split_delimiter

MAX_TABLE_BYTES = 64 << 20
MAX_ROWS = 1_000_000
_PARQUET_MARK = b"PAR1"
_OLD_EXCEL_MARK = b"\xd0\xcf\x11\xe0"
_CSV_HELP = "save it as CSV (UTF-8) with a heading line"


@dataclass(frozen=True)
class Table:
    """Heading and rows as text; ``lines[i]`` is where row i stands in the file."""

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    notes: tuple[str, ...] = ()

    def column(self, name: str, table_name: str) -> int:
        """Number of a column, by its heading without regard to case.

        Raises
        ------
        ManifestError
            If there is none, or more than one; the table is called `table_name`.
        """
        found = [i for i, h in enumerate(self.header) if h.strip().casefold() == name.casefold()]
        if len(found) != 1:
            raise ManifestError(
                table_name,
                f"has {'more than one' if found else 'no'} column {name}",
                f"its columns are {', '.join(h.strip() for h in self.header if h.strip())}",
            )
        return found[0]


def read_table(path: Path) -> Table:
    """Read a table; every cell becomes text, empty where there is none.

    Raises
    ------
    ManifestError
        If the file is missing, too large, no table, or its rows do not fit its heading.
    """
    name = path.name
    if other := not_a_table(path):
        raise ManifestError(name, *other)
    try:
        size = path.stat().st_size
        if size > MAX_TABLE_BYTES:
            raise ManifestError(
                name, f"is larger than {MAX_TABLE_BYTES >> 20} MiB", "is it the cohort table?"
            )
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ManifestError(name, "does not exist", "give a table or a folder of slides") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "bad name"
        raise ManifestError(name or "manifest", f"cannot be read ({reason})") from None
    if raw.startswith(_PARQUET_MARK):
        return _parquet(raw, name)
    if raw.startswith(spreadsheet.MARK):
        return Table(*spreadsheet.read_xlsx(raw, name, MAX_ROWS))
    if raw.startswith(_OLD_EXCEL_MARK):
        raise ManifestError(name, "is a workbook of old Excel (.xls)", "save it as .xlsx or CSV")
    return _csv(raw, name)


def _csv(raw: bytes, name: str) -> Table:
    try:
        text, notes = decode_table(raw)
    except NotTextError as error:
        raise ManifestError(name, str(error), _CSV_HELP) from None
    if not text.strip():
        raise ManifestError(name, "is empty", "add a heading line and a row for each slide")
    delimiter, text, skipped = split_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = cells
                continue
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if len(cells) > len(header):
                raise ManifestError(
                    f"{name}, line {reader.line_num + skipped}",
                    f"has {len(cells)} cells where the heading has {len(header)}",
                    "put cells that contain the separator in quotes",
                )
            if len(rows) >= MAX_ROWS:
                raise ManifestError(name, f"has more than {MAX_ROWS} rows", "split the cohort")
            rows.append(cells + [""] * (len(header) - len(cells)))
            lines.append(reader.line_num + skipped)
    except csv.Error:
        raise ManifestError(
            f"{name}, line {reader.line_num + skipped}", "has an unclosed or stray quote",
            _CSV_HELP,
        ) from None  # fmt: skip
    return Table(header or [], rows, lines, notes)


def _parquet(raw: bytes, name: str) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ManifestError(
            name, "is Parquet, which needs pyarrow", "install pyarrow or save the table as CSV"
        ) from None
    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        if file.metadata.num_rows > MAX_ROWS:
            raise ManifestError(name, f"has more than {MAX_ROWS} rows", "split the cohort")
        table = file.read()
        header = [str(column) for column in table.column_names]
        columns: list[list[Any]] = [column.to_pylist() for column in table.columns]
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(name, "is damaged Parquet", "write the table again") from None
    rows = [[_text(cell, name) for cell in cells] for cells in zip(*columns, strict=True)]
    return Table(header, rows, list(range(1, len(rows) + 1)))


def _text(cell: object, name: str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        # Ids and labels that a table of numbers made 1.0 out of 1.
        refuse_long_number(cell, name)
        return str(int(cell))
    if isinstance(cell, str | int | float):
        return str(cell)
    raise ManifestError(name, "has a cell that is neither text nor number", _CSV_HELP)
