"""Tables as people save them, and tables that nobody should."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from pathology_scaat.cohort.ids import id_problem
from pathology_scaat.cohort.manifest import COLUMNS, Manifest, read_manifest, write_manifest
from pathology_scaat.errors import ManifestError


def read(tmp_path: Path, content: str | bytes, name: str = "cohort.csv") -> Manifest:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(raw)
    return read_manifest(tmp_path / name)


def test_only_the_slide_is_needed(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "slide_path\nsub/a.svs\n").rows
    assert row.slide_path == tmp_path / "sub" / "a.svs"
    assert row.slide_path.is_absolute()
    assert (row.slide_id, row.patient_id) == ("a", "a")
    assert (row.label, row.split, row.mpp, row.annotation_path, row.mask_path) == (None,) * 5


FULL = (
    "slide_path,slide_id,patient_id,label,split,mpp,annotation_path,mask_path\n"
    "a.svs,A,P1,Tumor,train,0.25,a.geojson,a.png\n"
)


@pytest.mark.parametrize(
    "content",
    [
        FULL,
        FULL.replace("\n", "\r\n"),
        FULL.replace("\n", "\r"),
        FULL.replace(",", ";"),
        FULL.replace(",", "\t"),
        FULL.replace(",", ";").replace("0.25", "0,25"),
        "\ufeff" + FULL,
        "sep=;\n" + FULL.replace(",", ";"),
        FULL.replace(",", ' , '),
        FULL.upper().replace("A.SVS", "a.svs").replace("A.GEOJSON", "a.geojson")
        .replace("A.PNG", "a.png").replace("TUMOR", "Tumor"),
        "\n\n" + FULL + "\n,,,,,,,\n",
        FULL.replace("\n", ",\n"),
        '"' + FULL.replace(",", '","').replace("\n", '"\n"').removesuffix('"'),
        FULL.encode("utf-16"),
    ],
)  # fmt: skip
def test_spellings_of_csv(tmp_path: Path, content: str | bytes) -> None:
    (row,) = read(tmp_path, content).rows
    assert row.slide_path == tmp_path / "a.svs"
    assert (row.slide_id, row.patient_id, row.label, row.split) == ("A", "P1", "Tumor", "train")
    assert row.mpp == 0.25
    assert row.annotation_path == tmp_path / "a.geojson"
    assert row.mask_path == tmp_path / "a.png"


@pytest.mark.parametrize("column", COLUMNS)
def test_aliases(tmp_path: Path, column: str) -> None:
    value = {"mpp": "0.5", "split": "validation", "fold": "3"}.get(column, "x")
    for alias in COLUMNS[column]:
        heading = alias.upper().replace("_", " ")
        text = f"{heading}\nx\n" if column == "slide_path" else f"wsi,{heading}\ny.svs,{value}\n"
        (row,) = read(tmp_path, text).rows
        assert getattr(row, column) is not None


def test_the_exact_name_wins_over_an_alias_and_strangers_are_noted(tmp_path: Path) -> None:
    found = read(tmp_path, "filename,slide_path,age\nx.svs,y.svs,61\n")
    assert found.rows[0].slide_path.name == "y.svs"
    assert any("age" in note for note in found.notes)


def test_windows_text_and_windows_paths(tmp_path: Path) -> None:
    found = read(tmp_path, "slide_path;label\nM\xfcller\\a.svs;\xdc\n".encode("cp1252"))
    assert found.rows[0].slide_path == tmp_path / "M\xfcller" / "a.svs"
    assert found.rows[0].label == "\xdc"
    assert any("1252" in note for note in found.notes)


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "wsi": ["a.svs", "b.svs"],
            "case_id": [1.0, 2.0],
            "mpp": [0.25, None],
            "label": pa.array(["T", None]),
        }
    )
    parquet.write_table(table, tmp_path / "c.parquet")
    one, two = read_manifest(tmp_path / "c.parquet").rows
    assert (one.patient_id, one.mpp, one.label) == ("1", 0.25, "T")
    assert (two.patient_id, two.mpp, two.label) == ("2", None, None)
    with pytest.raises(ManifestError, match="damaged Parquet"):
        read(tmp_path, b"PAR1 nonsense", "bad.parquet")
    parquet.write_table(pa.table({"wsi": [["a"]]}), tmp_path / "nested.parquet")
    with pytest.raises(ManifestError, match="neither text nor number"):
        read_manifest(tmp_path / "nested.parquet")


def test_ids_are_made_distinct(tmp_path: Path) -> None:
    found = read(tmp_path, "slide_path\na/1.svs\nb/1.svs\nb/1.tiff\nC/2.svs\nc/2.SVS\n3.svs\n")
    ids = found.slide_ids
    assert len({i.casefold() for i in ids}) == 6
    assert ids[-1] == "3"
    assert all(id_problem(i) is None for i in ids)
    outside = read(tmp_path, "slide_path\n/data/jane_doe/x/1.svs\n/data/jane_doe/y/1.svs\n")
    assert not any("jane" in i or "data" in i for i in outside.slide_ids)


def test_round_trip(tmp_path: Path) -> None:
    text = FULL + 'sub/b.svs,"B, 2",P2,"say ""x""",test,,,\n'
    first = read(tmp_path, text)
    write_manifest(first, tmp_path / "copy.csv")
    assert read_manifest(tmp_path / "copy.csv").rows == first.rows
    assert str(tmp_path) not in (tmp_path / "copy.csv").read_text()
    before = (tmp_path / "copy.csv").read_bytes()
    write_manifest(first, tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_bytes() == before


HOSTILE = {
    "empty": ("", "is empty"),
    "heading only": ("slide_path\n", "lists no slide"),
    "no slide column": ("name,label\na,b\n", "no column slide_path"),
    "two columns": ("wsi,filename\na,b\n", "two columns for slide_path"),
    "same column": ("slide_path,slide_path\na,b\n", "two columns for slide_path"),
    "blank slide": ("slide_path,label\n,T\n", "names no slide"),
    "duplicate id": ("slide_path,slide_id\na,X\nb,x\n", "second time"),
    "duplicate slide": ("slide_path\na.svs\n./a.svs\n", "second time"),
    "climbing id": ("slide_path,slide_id\na,../../x\n", "cannot stand in a file name"),
    "device id": ("slide_path,slide_id\na,CON\n", "device name"),
    "formula id": ("slide_path,slide_id\na,=1+1\n", "formula"),
    "hidden id": ("slide_path,slide_id\na,x\u202ey\n", "invisible"),
    "long id": ("slide_path,slide_id\na," + "x" * 300 + "\n", "longer than"),
    "bad mpp": ("slide_path,mpp\na,fast\n", "impossible µm/px"),
    "zero mpp": ("slide_path,mpp\na,0\n", "impossible µm/px"),
    "infinite mpp": ("slide_path,mpp\na,inf\n", "impossible µm/px"),
    "bad split": ("slide_path,split\na,maybe\n", "unknown split"),
    "leak": ("slide_path,patient_id,split\na,P,train\nb,P,test\n", "more than one split"),
    "wide row": ("slide_path,label\na,b,c\n", "3 cells where"),
    "open quote": ('slide_path\n"a\n', "quote"),
    "zero byte": ("slide_path\na\0b\n", "not a text table"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "not a text table"),
    "remote": ("slide_path,mask_path\na.svs,s3://bucket/a.png\n", "remote address"),
    "line in a path": ('slide_path\n"a\nb"\n', "no file can have"),
    "long label": ("slide_path,label\na," + "x" * 5000 + "\n", "unusable label"),
    "very long label": ("slide_path,label\na," + "x" * 201 + "\n", "201 characters, more than 200"),
    "hidden label": ("slide_path,label\na,x\u202ey\n", r"cannot be seen \(U\+202E\)"),
    "lines in a label": ('slide_path,label\na,"x\ny"\n', "label: it goes over several lines"),
    "lines in a patient": ('slide_path,patient_id\na,"x\ny"\n', "patient_id: it goes over"),
    "huge cell": ("slide_path\n" + "x" * 200_000 + "\n", "quote|no file can have|cell"),
    "cut utf-16": (b"\xff\xfea", "UTF-16|no column"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tables_give_one_sentence(tmp_path: Path, case: str) -> None:
    content, words = HOSTILE[case]
    with pytest.raises(ManifestError, match=words) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith("cohort.csv")
    assert "\n" not in message
    assert str(tmp_path) not in message
    assert len(message) < 300


def test_missing_and_unreadable_tables(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        read_manifest(tmp_path / "no.csv")
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(loop)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest("a\0b.csv")


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_content_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    raw = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    for prefix in (b"", b"slide_path,slide_id,patient_id,label,split,mpp\n"):
        path.write_bytes(prefix + raw)
        message, found = "", Manifest(())
        try:
            found = read_manifest(path)
        except ManifestError as error:
            message = str(error)
        assert "\n" not in message
        assert all(id_problem(i) is None for i in found.slide_ids)
        assert len({i.casefold() for i in found.slide_ids}) == len(found)
