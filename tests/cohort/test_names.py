"""One name in two spellings is one thing, and what was assumed is said."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.cohort.manifest import Manifest, read_manifest, write_manifest
from pathology_scaat.errors import ManifestError
from pathology_scaat.system.look_alikes import look_alikes
from pathology_scaat.system.names import did_you_mean, name_key, near_names, normal_name

JOSE = "Jos\u00e9"


def read(tmp_path: Path, text: str) -> Manifest:
    (tmp_path / "cohort.csv").write_text(text, encoding="utf-8")
    return read_manifest(tmp_path / "cohort.csv")


@given(st.text(max_size=20))
def test_a_key_does_not_depend_on_spelling(name: str) -> None:
    for other in (
        normal_name(name),
        f"  {name}\t",
        unicodedata.normalize("NFD", name),
        name.casefold(),
        name_key(name),
    ):
        assert name_key(other) == name_key(name)


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Tumor", "Tumour", True),
        ("Invasive carcinoma", "invasive carcinomas", True),
        ("Stroma", "Stromal", True),
        ("Grade 1", "Grade 2", False),
        ("Grade I", "Grade II", False),
        ("LUAD", "LUSC", False),
        ("Tumor", "Tumor", False),
        ("Tumor", "Normal", False),
        ("MSI", "MSS", False),
    ],
)
def test_near_names(one: str, other: str, near: bool) -> None:
    assert bool(near_names([one, other])) == near


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["TRUE", "1", "Yes", "1.0"], {"1.0": "number", "1": "answer", "Yes": "answer"}),
        (["0", "no", "FALSE", "1"], {"no": "answer", "FALSE": "answer"}),
        (["01", "1,0", "2"], {"1,0": "number"}),
        (["Tumor", "Tum\u043er", "Non\u2011Tumor", "Non Tumor", "nontumor"],
         {"Tum\u043er": "alike", "Non Tumor": "alike", "nontumor": "alike"}),
        (["Tumor", "Tu\u200bmor", "\uff34umor"], {"Tu\u200bmor": "alike", "\uff34umor": "alike"}),
        (["HER2+", "HER2-", "Grade 1", "Grade 2", "G1", "G2", "1-2", "12", "I", "II"], {}),
        (["positive", "negative", "Normal", "Tumor", "0", "2"], {"0": "answer"}),
        (["pT1a", "pT1b", "pT2", "0.5", "5", "1.5", "15"], {}),
        (["Tumor", "Tumour"], {"Tumour": "letter"}),
    ],
)  # fmt: skip
def test_names_that_a_reader_takes_for_one(names: list[str], told: dict[str, str]) -> None:
    found = {other: why.split()[-1] for _, other, why in look_alikes(names)}
    assert found == told


def test_labels_of_several_programs_are_told(tmp_path: Path) -> None:
    text = "slide,patient,label\na,P-1,TRUE\nb,P1,1\nc,P2,1.0\nd,P3,no\n"
    said = "; ".join(read(tmp_path, text).notes)
    assert "labels 'TRUE' and '1' are one answer: if they are one class, write them alike" in said
    assert "labels '1' and '1.0' are one number" in said
    assert "the patient_id of line 2 and of line 3 look alike: they count as 2 patients" in said


def test_a_mistyped_name_gets_a_proposal() -> None:
    assert did_you_mean("tumour", ("Normal", "Tumor")) == "did you mean 'Tumor'?"
    assert did_you_mean("xyz", ("Normal", "Tumor")) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("P1", "p1"), (JOSE, unicodedata.normalize("NFD", JOSE)), ("Smith  J", "Smith J")],
)
def test_a_patient_in_two_spellings_is_one(tmp_path: Path, one: str, other: str) -> None:
    table = f"slide,patient,split\na.svs,{one},train\nb.svs,{other},"
    found = read(tmp_path, table)
    assert len({row.patient_id for row in found.rows}) == 1
    is_noted = any("line 3" in note and "one patient" in note for note in found.notes)
    assert is_noted == (one == "P1")  # what cannot be seen in the table is not worth a sentence
    assert not any(one in note for note in found.notes)
    for split in ("val", "test"):
        with pytest.raises(ManifestError, match="in more than one split"):
            read(tmp_path, table + split)


@pytest.mark.real
def test_field_one_patient_in_two_spellings(data_dir: Path) -> None:
    table = data_dir / "field" / "one_patient_in_two_spellings" / "case.csv"
    if not table.is_file():
        pytest.skip("the field cases are not here")
    with pytest.raises(ManifestError, match="'P1' or 'p1' in more than one split"):
        read_manifest(table)


def test_labels_in_two_spellings_are_one_class(tmp_path: Path) -> None:
    found = read(tmp_path, "slide,label\na,Tumor\nb,tumor\nc,Normal\nd,NORMAL \ne,Tumour\n")
    assert [row.label for row in found.rows] == ["Tumor", "Tumor", "Normal", "Normal", "Tumour"]
    said = "; ".join(found.notes)
    assert "label 'tumor' (1 row) is 'Tumor'" in said
    assert "'Tumor' and 'Tumour' differ by a letter" in said


def test_none_as_a_label_is_reported_with_its_count(tmp_path: Path) -> None:
    found = read(tmp_path, "slide,label\na,None\nb,None\nc,Tumor\nd,\n")
    assert [row.label for row in found.rows] == [None, None, "Tumor", None]
    (note,) = [n for n in found.notes if "None" in n]
    assert note.startswith("2 rows with the label 'None' counted as having no label")


def test_rows_without_a_patient_are_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "slide,patient\na,P1\nb,\nc,NA\n")
    assert any("2 of 3 rows have no patient_id" in note for note in found.notes)
    assert any("patient 'NA'" in note for note in found.notes)


def test_one_annotation_file_for_two_slides_is_reported(tmp_path: Path) -> None:
    found = read(tmp_path, "slide,xml\na,x.xml\nb,x.xml\n")
    assert any("lines 2, 3 give one annotation file for 2 slides" in n for n in found.notes)


def test_slide_ids_that_differ_by_a_blank_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="a second time"):
        read(tmp_path, "slide,slide_id\na,S1 HE\nb,S1  HE\n")


def test_two_files_whose_names_differ_by_a_blank_have_two_ids(tmp_path: Path) -> None:
    for name in ("S1 HE.svs", "S1  HE.svs"):
        (tmp_path / name).write_bytes(b"x")
    ids = Manifest.from_folder(tmp_path).slide_ids
    assert len({name_key(slide_id) for slide_id in ids}) == 2


# ----- folds
@pytest.mark.parametrize("heading", ["fold", "Fold", "cv_fold", "k-fold"])
def test_folds_are_folds(tmp_path: Path, heading: str) -> None:
    found = read(tmp_path, f"slide,{heading},split\na,0,train\nb,1.0,\nc,fold_2,test\nd,,\n")
    assert [row.fold for row in found.rows] == [0, 1, 2, None]
    assert [row.split for row in found.rows] == ["train", None, "test", None]
    assert any("folds were read" in note for note in found.notes)
    write_manifest(found, tmp_path / "again.csv")
    assert read_manifest(tmp_path / "again.csv").rows == found.rows


def test_a_fold_column_of_splits_is_the_split(tmp_path: Path) -> None:
    found = read(tmp_path, "slide,fold\na,train\nb,validation\nc,\n")
    assert [(row.split, row.fold) for row in found.rows] == [
        ("train", None), ("val", None), (None, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide,patient,fold\na,P,0\nb,p,1\n", "in more than one fold"),
        ("slide,fold\na,first\n", "which is no number"),
        ("slide,split\na,3\n", "a column of folds is named fold"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read(tmp_path, text)


# ----- two annotation files beside one slide
AREAS = b'{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": null}]}'


@pytest.mark.parametrize(
    "names",
    [
        ("a.geojson", "a.geojson.gz"),
        ("a.geojson", "a.svs.geojson"),
        ("a.geojson", "a.xml"),
        ("a.GEOJSON", "a.json"),
        ("a.annotations", "a.svs.xml"),
    ],
)
def test_two_annotation_files_of_one_slide_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    for name in names:
        (tmp_path / name).write_bytes(b"<Annotations/>" if "xml" in name else AREAS)
    with pytest.raises(ManifestError, match="2 annotation files beside it"):
        Manifest.from_folder(tmp_path)


def test_a_scanners_file_beside_an_annotation_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    (tmp_path / "a.Geojson").write_bytes(AREAS)
    (tmp_path / "a.xml").write_bytes(b"<DataObject ObjectType='DPUfsImport'/>")
    (tmp_path / "a.json").write_bytes(b'{"scanner": "x"}')
    (row,) = Manifest.from_folder(tmp_path).rows
    assert row.annotation_path is not None
    assert row.annotation_path.name == "a.Geojson"
