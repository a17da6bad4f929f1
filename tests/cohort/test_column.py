"""A further column of the manifest: found by its heading, refused in true words."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathology_scaat.cohort.column import column_of, columns_of
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import ManifestError

COHORT = Manifest(
    tuple(ManifestRow(Path(f"{name}.tiff"), slide_id=name, patient_id=name) for name in "ab")
)


def test_cells_by_slide_without_those_that_say_nothing(tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text("slide_path,SITE\na.tiff, north \nb.tiff,n/a\n")
    assert column_of(table, "site", COHORT) == {"a": "north"}


def test_a_site_in_two_spellings_is_one_site(tmp_path: Path) -> None:
    """Two would be trained on under one name and tested on under the other."""
    for name, cells in (("m", ("Site A", "site a")), ("n", ("Site  A", "Site-A"))):
        (tmp_path / f"{name}.csv").write_text(
            f"slide_path,site\na.tiff,{cells[0]}\nb.tiff,{cells[1]}\n"
        )
    found, notes = columns_of([(tmp_path / "m.csv", COHORT)], ["site"])
    assert found == {"site": {"a": "Site A", "b": "Site A"}}
    assert notes == (
        "column site of slide 'b' (1 row) is that of slide 'a' in another spelling: they are one "
        "value",
    )
    found, notes = columns_of([(tmp_path / "n.csv", COHORT)], ["site"])
    assert found == {"site": {"a": "Site A", "b": "Site-A"}}
    assert notes == (
        "column site of slides 'a' and 'b' has values that look alike: if they are one value, "
        "write them alike",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide_path,hall\na.tiff,1\nb.tiff,2\n", "has no column site; its columns are slide_path"),
        ("slide_path,site,Site\na.tiff,1,2\nb.tiff,2,3\n", "has more than one column site"),
        # Another row was written since the cohort was read: the column is there, once.
        ("slide_path,site\na.tiff,1\nb.tiff,2\nc.tiff,3\n", "has 3 rows, and 2 slides were read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, words: str) -> None:
    table = tmp_path / "m.csv"
    table.write_text(text)
    with pytest.raises(ManifestError, match=words):
        column_of(table, "site", COHORT)
