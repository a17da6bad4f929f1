"""CLAM's and STAMP's tables, in the shape that their users have, become manifests."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathology_scaat.cli.app import app
from pathology_scaat.cohort.column import column_of
from pathology_scaat.cohort.manifest import read_manifest, write_manifest
from pathology_scaat.cohort.peer_tables import clam_manifest, stamp_manifest
from pathology_scaat.cohort.table import read_table
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


def test_clam_s_splits_as_marks_and_what_is_none(tmp_path: Path, slides: Path) -> None:
    table = write(
        tmp_path / "task.csv",
        "case_id,slide_id,label\np0,slide_1,a\np0,slide_2,b\np1,slide_3,a\n",
    )
    marks = write(
        tmp_path / "splits_0_bool.csv",
        ",train,val,test\nslide_1,True,False,False\nslide_2,True,False,False\n"
        "slide_3,False,False,True\n",
    )
    found = clam_manifest(table, slides, marks)
    assert [(r.slide_id, r.split) for r in found.rows] == [
        ("slide_1", "train"), ("slide_2", "train"), ("slide_3", "test"),
    ]  # fmt: skip
    marks.write_text(",train,val,test\nslide_1,True,True,False\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="line 2: has slide 'slide_1' twice"):
        clam_manifest(table, slides, marks)
    counts = write(tmp_path / "splits_0_descriptor.csv", ",train,val,test\na,1,0,0\nb,1,0,0\n")
    with pytest.raises(ManifestError, match="counts the slides of each class and names none"):
        clam_manifest(table, slides, counts)


def test_rows_without_a_patient_are_not_one_patient(tmp_path: Path, slides: Path) -> None:
    """Else a slide of nobody would get the label of another nobody."""
    clini = write(tmp_path / "clini.csv", "PATIENT,grade\nP1,low\n,high\n,low\n")
    listed = write(tmp_path / "slides.csv", "PATIENT,FILENAME\nP1,slide_1.h5\n,slide_2.h5\n")
    found = stamp_manifest(clini, listed, slides, "grade")
    assert [(r.slide_id, r.patient_id, r.label) for r in found.rows] == [("slide_1", "P1", "low")]
    assert found.notes[:2] == (
        "2 row(s) of clini.csv without a PATIENT: left out",
        "1 slide(s) without a PATIENT in slides.csv: left out",
    )


def test_files_of_features_do_where_there_are_no_slides(tmp_path: Path) -> None:
    (tmp_path / "features" / "h5_files").mkdir(parents=True)
    for name in ("slide_1", TCGA):
        (tmp_path / "features" / "h5_files" / f"{name}.h5").write_bytes(b"")
    table = write(tmp_path / "task.csv", f"case_id,slide_id,label\np0,slide_1,a\np1,{TCGA},b\n")
    found = clam_manifest(table, tmp_path / "features")
    write_manifest(found, tmp_path / "cohort.csv")
    read = read_manifest(tmp_path / "cohort.csv", needs_slides=False)
    assert [row.slide_id for row in read.rows] == ["slide_1", TCGA]
    # CLAM's own table is read as it is, too: the id stands for the slide
    bare = read_manifest(table, needs_slides=False)
    assert [(row.slide_id, row.patient_id) for row in bare.rows] == [
        ("slide_1", "p0"),
        (TCGA, "p1"),
    ]
    with pytest.raises(ManifestError, match="no column slide_path"):
        read_manifest(table)


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
    assert len(found.notes) == 3
    assert found.notes[2].endswith("(--columns does): AGE, stage")
    with pytest.raises(ManifestError, match="no column grade; its columns are PATIENT, AGE"):
        stamp_manifest(clini, table, slides, "grade")
    # the same tables as STAMP's users have them: Excel workbooks
    from_workbooks = stamp_manifest(
        workbook(tmp_path / "clini.xlsx", [["PATIENT", "AGE", "isMSIH"], ["P1", 60, "MSIH"],
                                           ["P2", 61.0, "nonMSIH"], ["P3", None, None]]),
        workbook(tmp_path / "slide.xlsx", [["PATIENT", "FILENAME"], ["P1", "slide_1.h5"],
                                           ["P1", f"{TCGA}.h5"], ["P2", "feats/slide_2.h5"],
                                           ["P3", "slide_3.h5"], ["P9", "slide_9.h5"]]),
        slides, "isMSIH",
    )  # fmt: skip
    assert from_workbooks.rows == found.rows
    assert len(from_workbooks.notes) == 3


def workbook(path: Path, *sheets: list[list[object]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_is_a_table_as_any_other(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    path = workbook(tmp_path / "a.xlsx", [
        ["id", "n", "when", "yes"], [None, None, None, None],
        ["Ä b", 3.0, datetime.datetime(2024, 5, 1), True], ["=not", 0.25, None, "x"],
    ])  # fmt: skip
    book = openpyxl.load_workbook(path)
    book.active["A4"].data_type = "s"  # a text that begins with =, as text
    book.active["B4"].number_format = "0"
    book.active["A5"], book.active["B5"] = "z", 7
    book.active["B5"].number_format = "0000"
    book.create_sheet("empty")
    book.save(path)
    found = read_table(path)
    assert found.header == ["id", "n", "when", "yes"]
    assert found.rows == [["Ä b", "3", "2024-05-01", "True"], ["=not", "0.25", "", "x"],
                          ["z", "0007", "", ""]]  # fmt: skip
    assert found.lines == [3, 4, 5]


@pytest.mark.parametrize(
    ("sheets", "words"),
    [
        ([[["a"], ["x"]], [["b"], ["y"]]], "2 sheets with content"),
        ([[["a", "b"], ["x", "=A2"]]], "formula whose value is not in the file"),
        ([[["a"], ["x", "y"]]], "outside of the heading"),
        ([[["a"], ["#N/A"]]], "error value #N/A"),
        ([[]], "is empty"),
    ],
)
def test_what_a_workbook_cannot_say_is_refused(
    tmp_path: Path, sheets: list[list[list[object]]], words: str
) -> None:
    with pytest.raises(ManifestError, match=words):
        read_table(workbook(tmp_path / "a.xlsx", *sheets))


@pytest.mark.parametrize("content", [b"PK\x03\x04 torn", b"\xd0\xcf\x11\xe0 old"])
def test_what_is_no_workbook_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.xlsx").write_bytes(content)
    with pytest.raises(ManifestError, match="CSV"):
        read_table(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("table", "splits", "words"),
    [
        ("case_id,slide_id,label\np,slide_7,a\n", None, "holds none"),
        ("case_id,slide_id,label\np,slide_1,a\np,slide_1,a\n", None, "twice"),
        ("case_id,slide_id,label\np,slide_1,a\np,slide_1.svs,b\n", None, "one file twice"),
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


def test_what_the_tables_do_not_say_is_counted(tmp_path: Path, slides: Path) -> None:
    table = write(tmp_path / "task.csv", "case_id,slide_id,label\n,slide_1,a\n,slide_2,b\n")
    assert clam_manifest(table, slides).notes == (
        "2 slide(s) have no case_id: each counts as a patient of its own",
        "2 slide(s) of the folder are in no row of task.csv",
    )
    clini = write(tmp_path / "clini.csv", "PATIENT,x\nP1,a\nP2,b\nP3,a\n")
    listed = write(tmp_path / "slide.csv", "PATIENT,FILENAME\nP1,slide_1.h5\nP3,slide_2.svs\n")
    assert stamp_manifest(clini, listed, slides, "x").notes == (
        "1 patient(s) of clini.csv have no slide in slide.csv",
        "2 slide(s) of the folder are in no row of slide.csv",
    )


def test_the_command_writes_a_manifest(tmp_path: Path, slides: Path) -> None:
    table = write(tmp_path / "task.csv", "case_id,slide_id,label\np0,slide_1,a\np1,slide_2,\n")
    to = tmp_path / "cohort.csv"
    done = CliRunner().invoke(
        app, ["make-manifest", str(table), "--slides", str(slides), "--to", str(to)]
    )
    assert done.exit_code == 0, done.output
    assert "2 slides, 1 with a label" in " ".join(done.output.split())
    assert [row.label for row in read_manifest(to).rows] == ["a", None]
    assert "1 'a'" in done.output
    assert "2 slide(s) of the folder are in no row of task.csv" in done.output
    again = ["make-manifest", str(table), "--slides", str(slides), "--to", str(to)]
    assert CliRunner().invoke(app, again).exit_code == 0
    edited = to.read_text().replace("p1", "somebody")
    to.write_text(edited)
    lost = CliRunner().invoke(app, again)
    assert "is there already and says something else" in str(lost.exception)
    assert to.read_text() == edited
    half = CliRunner().invoke(
        app, ["make-manifest", str(table), "--slides", str(slides), "--target", "x"]
    )
    assert "--target: is for STAMP's tables; give --slide-table too" in str(half.exception)


def test_further_columns_are_taken_along_where_they_are_asked_for(
    tmp_path: Path, slides: Path
) -> None:
    """Else nobody could learn survival or grades, or see subgroups, from STAMP's tables."""
    clini = write(
        tmp_path / "clini.csv",
        "PATIENT,stage,OS,dead,site,name\nP1,II,12.5,1,north,A\nP2,III,7,0,,B\n",
    )
    listed = write(tmp_path / "slide.csv", "PATIENT,FILENAME\nP1,slide_1.h5\nP1,slide_2.h5\n"
                   "P2,slide_3.h5\n")  # fmt: skip
    to = tmp_path / "cohort.csv"
    base = ["make-manifest", str(clini), "--slides", str(slides), "--slide-table", str(listed)]
    done = CliRunner().invoke(app, [*base, "--columns", "os, dead,site", "--to", str(to)])
    assert done.exit_code == 0, done.output
    assert "not taken along (--columns does): stage, name" in " ".join(done.output.split())
    cohort = read_manifest(to)
    assert [row.label for row in cohort.rows] == [None, None, None]
    assert column_of(to, "OS", cohort) == {"slide_1": "12.5", "slide_2": "12.5", "slide_3": "7"}
    assert column_of(to, "site", cohort) == {"slide_1": "north", "slide_2": "north"}
    # the same again is the same file; a target and columns go together
    assert CliRunner().invoke(
        app, [*base, "--columns", "os,dead,site", "--to", str(to)]
    ).exit_code == 0  # fmt: skip
    both = tmp_path / "both.csv"
    done = CliRunner().invoke(
        app, [*base, "--target", "stage", "--columns", "stage,dead", "--to", str(both)]
    )
    assert done.exit_code == 0, done.output
    cohort = read_manifest(both)
    assert [row.label for row in cohort.rows] == ["II", "II", "III"]
    assert set(column_of(both, "stage", cohort).values()) == {"II", "III"}
    for options, words in (
        ([], "--slide-table: needs a column to learn; give --target, or --columns"),
        (["--columns", "nothing"], "has no column nothing"),
        (["--columns", "Label"], "is the name of a column that every manifest has"),
    ):
        lost = CliRunner().invoke(app, [*base, *options, "--to", str(tmp_path / "no.csv")])
        assert words in str(lost.exception)
    assert not (tmp_path / "no.csv").exists()


def test_patients_of_two_values_are_refused_in_any_column(tmp_path: Path, slides: Path) -> None:
    clini = write(tmp_path / "clini.csv", "PATIENT,x,site\nP1,a,north\nP1,a,south\n")
    listed = write(tmp_path / "slide.csv", "PATIENT,FILENAME\nP1,slide_1.h5\n")
    with pytest.raises(ManifestError, match="line 3: gives patient 'P1' a second value of site"):
        stamp_manifest(clini, listed, slides, "x", ("site",))
    assert len(stamp_manifest(clini, listed, slides, "x").rows) == 1


def test_clam_s_table_keeps_further_columns_with_splits(tmp_path: Path, slides: Path) -> None:
    table = write(
        tmp_path / "task.csv",
        "case_id,slide_id,label,survival_months,censorship,age\np0,slide_1,a,10,0,50\n"
        "p1,slide_2,b,20,1,60\np2,slide_3,a,5,0,70\n",
    )
    splits = write(tmp_path / "splits_0.csv", ",train,val,test\n0,slide_1,,slide_3\n")
    found = clam_manifest(table, slides, splits, ("survival_months", "censorship"))
    manifest = tmp_path / "cohort.csv"
    write_manifest(found, manifest)
    cohort = read_manifest(manifest)
    assert column_of(manifest, "survival_months", cohort) == {"slide_1": "10", "slide_3": "5"}
    assert found.notes[-1].endswith("(--columns does): age")


def test_the_command_says_what_a_run_will_make_of_the_labels(
    tmp_path: Path, slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(
        tmp_path / "task.csv", "case_id,slide_id,label\np0,slide_1,Tumor\np1,slide_2,tumor\n"
    )
    to = tmp_path / "cohort.csv"
    done = CliRunner().invoke(
        app, ["make-manifest", str(table), "--slides", str(slides), "--to", str(to)]
    )
    assert done.exit_code == 0
    said = done.output + capsys.readouterr().out
    assert "cohort.csv: label 'tumor' (1 row) is 'Tumor' in another spelling" in said


def test_a_patient_in_two_splits_is_refused_at_once(tmp_path: Path, slides: Path) -> None:
    """A run would refuse the manifest, but the table that is to be mended is CLAM's."""
    table = write(
        tmp_path / "task.csv",
        "case_id,slide_id,label\np0,slide_1,a\np0,slide_2,b\np1,slide_3,a\n",
    )
    apart = write(tmp_path / "splits_1.csv", ",train,val,test\n0,slide_1,slide_2,slide_3\n")
    to = tmp_path / "cohort.csv"
    options = ["--slides", str(slides), "--to", str(to), "--splits", str(apart)]
    done = CliRunner().invoke(app, ["make-manifest", str(table), *options])
    assert "splits_1.csv: has patient 'p0' in more than one split" in str(done.exception)
    assert not to.exists()
