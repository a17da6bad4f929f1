"""CLAM's and STAMP's tables, in the shape that their users have, become manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathology_scaat.cohort.manifest import read_manifest, write_manifest
from pathology_scaat.cohort.peer_tables import clam_manifest, stamp_manifest
from pathology_scaat.errors import ManifestError

TCGA = "TCGA-XX-0001-01Z-00-DX1.0A1B2C3D"


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("slide_1.svs", "slide_2.svs", "slide_3.tiff", f"{TCGA}.svs"):
        (folder / name).write_bytes(b"II*\0")
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_clam_s_table_and_splits(tmp_path: Path, slides: Path) -> None:
    table = write(
        tmp_path / "task.csv",
        "case_id,slide_id,label\npatient_0,slide_1,tumor_tissue\npatient_1,slide_2,normal_tissue\n"
        f"patient_1,slide_3,normal_tissue\npatient_2,{TCGA},tumor_tissue\n",
    )
    splits = write(
        tmp_path / "splits_0.csv", f",train,val,test\n0,slide_1,slide_2,{TCGA}\n1,,slide_3,\n"
    )
    found = clam_manifest(table, slides, splits)
    assert [(r.slide_id, r.patient_id, r.label, r.split) for r in found.rows] == [
        ("slide_1", "patient_0", "tumor_tissue", "train"),
        ("slide_2", "patient_1", "normal_tissue", "val"),
        ("slide_3", "patient_1", "normal_tissue", "val"),
        (TCGA, "patient_2", "tumor_tissue", "test"),
    ]
    manifest = tmp_path / "cohort.csv"
    write_manifest(found, manifest)
    assert read_manifest(manifest).rows == found.rows
    assert len(clam_manifest(table, slides).rows) == 4
    few = write(tmp_path / "splits_1.csv", ",train,val,test\n0,slide_1,slide_2,slide_3\n")
    left = clam_manifest(table, slides, few)
    assert len(left.rows) == 3
    assert "1 slide(s)" in left.notes[0]


def test_stamp_s_tables(tmp_path: Path, slides: Path) -> None:
    clini = write(
        tmp_path / "clini.csv",
        "PATIENT,AGE,isMSIH,stage\nP1,60,MSIH,II\nP2,61,nonMSIH,III\nP3,62,NA,I\n",
    )
    table = write(
        tmp_path / "slide.csv",
        f"PATIENT,FILENAME\nP1,slide_1.h5\nP1,{TCGA}.h5\nP2,feats/slide_2.h5\nP3,slide_3.h5\n"
        "P9,slide_9.h5\n",
    )
    found = stamp_manifest(clini, table, slides, "isMSIH")
    assert [(r.slide_id, r.patient_id, r.label) for r in found.rows] == [
        ("slide_1", "P1", "MSIH"),
        (TCGA, "P1", "MSIH"),
        ("slide_2", "P2", "nonMSIH"),
    ]
    assert len(found.notes) == 2
    with pytest.raises(ManifestError, match="no column grade; its columns are PATIENT, AGE"):
        stamp_manifest(clini, table, slides, "grade")
    with pytest.raises(ManifestError, match="spreadsheet"):
        stamp_manifest(tmp_path / "clini.xlsx", table, slides, "isMSIH")


@pytest.mark.parametrize(
    ("table", "splits", "words"),
    [
        ("case_id,slide_id,label\np,slide_7,a\n", None, "holds none"),
        ("case_id,slide_id,label\np,slide_1,a\np,slide_1,a\n", None, "twice"),
        ("case_id,slide,label\np,slide_1,a\n", None, "no column slide_id"),
        ("case_id,slide_id,label\np,slide_1,a\n", "train,val,test\nslide_2,,\n", "which task.csv"),
        ("case_id,slide_id,label\np,slide_1,a\n", "train,val,test\nslide_1,slide_1,\n", "two spl"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path, slides: Path, table: str, splits: str | None, words: str
) -> None:
    path = write(tmp_path / "task.csv", table)
    other = None if splits is None else write(tmp_path / "splits_0.csv", splits)
    with pytest.raises(ManifestError, match=words):
        clam_manifest(path, slides, other)


def test_the_command_writes_a_manifest(tmp_path: Path, slides: Path) -> None:
    from typer.testing import CliRunner

    from pathology_scaat.cli.app import app

    table = write(tmp_path / "task.csv", "case_id,slide_id,label\np0,slide_1,a\np1,slide_2,\n")
    to = tmp_path / "cohort.csv"
    done = CliRunner().invoke(
        app, ["make-manifest", str(table), "--slides", str(slides), "--to", str(to)]
    )
    assert done.exit_code == 0, done.output
    assert "2 slides, 1 with a label" in " ".join(done.output.split())
    assert [row.label for row in read_manifest(to).rows] == ["a", None]
    half = CliRunner().invoke(
        app, ["make-manifest", str(table), "--slides", str(slides), "--target", "x"]
    )
    assert "belong together" in str(half.exception)
