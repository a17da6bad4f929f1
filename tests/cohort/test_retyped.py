"""Ids and rows that a spreadsheet changed: refused where digits or patients are lost, else told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.cohort.table import read_table
from pathology_scaat.errors import ManifestError


def csv(folder: Path, *patients: str, column: str = "patient_id") -> Path:
    path = folder / "cohort.csv"
    rows = [f"s{number}.svs,{patient}" for number, patient in enumerate(patients)]
    path.write_text("\n".join([f"slide_path,{column}", *rows]))
    return path


def sheet(folder: Path, *patients: object) -> tuple[Path, Any]:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["slide_path", "patient_id"])
    for number, patient in enumerate(patients):
        book.active.append([f"s{number}.svs", patient])
    return folder / "cohort.xlsx", book


@pytest.mark.parametrize("column", ["patient_id", "slide_id"])
@pytest.mark.parametrize("text", ["1E+05", "1.23457E+11", '"1,2E+15"'])
def test_ids_that_lost_digits_are_refused(tmp_path: Path, text: str, column: str) -> None:
    with pytest.raises(ManifestError, match="dropped digits"):
        read_manifest(csv(tmp_path, text, column=column))


def test_ids_that_only_look_alike_are_not(tmp_path: Path) -> None:
    found = read_manifest(csv(tmp_path, "1E5", "E+05", "TCGA-1E+05", "12", "21"))
    assert not found.notes
    assert len({row.patient_id for row in found.rows}) == 5


def test_patients_told_apart_by_zeros_alone_are_told(tmp_path: Path) -> None:
    found = read_manifest(csv(tmp_path, "007", "7", "07", "70", "007"))
    assert [row.patient_id for row in found.rows] == ["007", "7", "07", "70", "007"]
    (note,) = found.notes
    assert note.startswith("the patient_id of lines 3, 4 is that of lines 2, 6 but for zeros")
    assert "3 patients" in note


@pytest.mark.parametrize("day", ["03-Jan", "2024-03-01", "Mar-12", "1-Mar-24"])
def test_days_for_ids_are_told(tmp_path: Path, day: str) -> None:
    (note,) = read_manifest(csv(tmp_path, "p1", day)).notes
    assert note.startswith("the patient_id of line 3 is a day")


def test_merged_cells_are_refused(tmp_path: Path) -> None:
    path, book = sheet(tmp_path, "p1", None, "p2")
    book.active.merge_cells("B2:B3")
    book.save(path)
    with pytest.raises(ManifestError, match=r"line 2: has merged cells \(B2:B3\)"):
        read_table(path)


def test_rows_that_a_filter_hides_are_told(tmp_path: Path) -> None:
    path, book = sheet(tmp_path, "p1", "p2", "p3")
    book.active.row_dimensions[3].hidden = True
    book.save(path)
    found = read_manifest(path)
    assert len(found.rows) == 3
    assert found.notes[0].startswith("line 3 of the sheet: hidden")


@pytest.mark.parametrize("number", [1234567890123456, 1e20])
def test_numbers_longer_than_a_spreadsheet_keeps_are_refused(tmp_path: Path, number: float) -> None:
    path, book = sheet(tmp_path, number)
    book.save(path)
    with pytest.raises(ManifestError, match="more than 15 digits"):
        read_table(path)
