"""The examples that the documentation shows are read as it says."""

from __future__ import annotations

import json
from pathlib import Path

from pathology_scaat.cohort.manifest import COLUMNS, assign_splits, read_manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "data_manifests"


def test_examples() -> None:
    assert read_manifest(EXAMPLES / "minimal.csv").slide_ids == ("case-001", "case-002", "case-003")
    full = assign_splits(read_manifest(EXAMPLES / "cohort.csv"))
    assert len({row.patient_id for row in full.rows}) == 5
    assert full.rows[-1].mpp == 0.2524
    european = read_manifest(EXAMPLES / "excel_semicolon.csv")
    assert [row.mpp for row in european.rows] == [0.2524, 0.5]
    assert [row.label for row in european.rows] == ["Tumor", "Normal"]
    assert european.notes == ("columns not used unless an option names them: Comment",)


def test_the_schema_and_the_page_name_every_column() -> None:
    schema = json.loads((EXAMPLES / "manifest.schema.json").read_text(encoding="utf-8"))
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [field["name"] for field in schema["fields"]] == list(COLUMNS)
    for field in schema["fields"]:
        assert tuple(field["aliases"]) == COLUMNS[field["name"]]
        for name in (field["name"], *field["aliases"]):
            assert f"`{name}`" in page
