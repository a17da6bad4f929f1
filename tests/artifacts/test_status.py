from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import COLUMNS
from pathology_scaat.artifacts.table_cells import safe_cell

WRITER = """
import sys
from pathlib import Path
from pathology_scaat.artifacts.status import StatusTable
table, name = StatusTable(Path(sys.argv[1])), sys.argv[2]
for i in range(int(sys.argv[3])):
    table.update(f"{name}-{i}", "tile", "done", n_patches=i)
    table.update("shared", "tile" if name == "a" else "explain", "done")
"""


def test_rows_keep_the_manifest_order_and_facts(tmp_path: Path) -> None:
    table = StatusTable(tmp_path)
    table.plan(["b", "a"])
    table.update("a", "tile", "done", n_patches=3, n_unreadable=0, mpp=0.25, mpp_source="slide")
    table.update("z", "tile", "failed", "slide is empty")
    table.plan(["b", "a", "c"])
    rows = table.rows()
    assert [row["slide_id"] for row in rows] == ["b", "a", "c", "z"]
    assert rows[1]["mpp"] == "0.25"
    assert rows[1]["n_unreadable"] == "0"
    assert rows[0]["export"] == "pending"
    assert [row["slide_id"] for row in table.failed()] == ["z"]
    assert [row["in_manifest"] for row in rows] == ["yes", "yes", "yes", "no"]
    table.plan(["z", "a"])
    assert table.not_in_manifest() == ["b", "c"]


def test_a_reason_goes_when_its_stage_succeeds(tmp_path: Path) -> None:
    table = StatusTable(tmp_path)
    table.update("a", "tile", "failed", "slide is empty")
    table.update("a", "tile", "pending")
    assert table.rows()[0]["reason"] == ""
    table.update("a", "tile", "done")
    table.update("a", "explain", "failed", "no memory")
    table.update("a", "tile", "done")
    assert table.rows()[0]["reason"] == "no memory"


def test_text_cannot_break_out_of_its_cell(tmp_path: Path) -> None:
    table = StatusTable(tmp_path)
    table.update("a", "tile", "failed", '=HYPERLINK("http://x")\r\nnext,"row"\x00')
    with table.path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1
    assert rows[0]["reason"].startswith("'=HYPERLINK")
    assert "\n" not in rows[0]["reason"]
    assert table.path.read_text(encoding="utf-8").count("\n") == 2


@given(st.one_of(st.text(), st.floats(), st.integers(), st.none()))
def test_any_value_is_one_safe_line(value: object) -> None:
    cell = safe_cell(value)
    assert len(cell.splitlines()) <= 1
    assert "\0" not in cell
    if isinstance(value, str):
        assert not cell.startswith(("=", "+", "-", "@"))


def test_two_processes_lose_no_row(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name, "40"])
        for name in ("a", "b")
    ]
    assert [w.wait(60) for w in writers] == [0, 0]
    rows = {row["slide_id"]: row for row in StatusTable(tmp_path).rows()}
    assert len(rows) == 81
    assert rows["shared"]["tile"] == rows["shared"]["explain"] == "done"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".slides.csv.lock", "slides.csv"]


def test_a_killed_writer_leaves_a_whole_table(tmp_path: Path) -> None:
    for delay_s in (0.15, 0.2, 0.25, 0.3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "a", "9999"])
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(delay_s + 0.2)
        writer.kill()
        writer.wait()
        rows = StatusTable(tmp_path).rows()
        assert all(set(row) == set(COLUMNS) for row in rows)
    StatusTable(tmp_path).update("after", "tile", "done")
    assert "after" in {row["slide_id"] for row in StatusTable(tmp_path).rows()}


TORN = b"slide_id,tile,explain,stitch,export,reason,n_patches\na,done,pen"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"name,x\n1,2\n", TORN, b"a\0b"])
def test_a_table_that_cannot_be_read_is_kept_and_made_anew_from_the_artifacts(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "patches" / "b.zarr").mkdir(parents=True)
    (tmp_path / "slides.csv").write_bytes(content)
    table = StatusTable(tmp_path)
    assert table.problem()
    table.update("a", "tile", "done")
    assert [(row["slide_id"], row["tile"], row["explain"]) for row in table.rows()] == [
        ("b", "done", "pending"),
        ("a", "done", "pending"),
    ]
    assert table.problem() is None
    assert (tmp_path / "slides.unreadable.csv").read_bytes() == content
    (tmp_path / "slides.csv").write_bytes(b"again")
    table.update("a", "tile", "done")
    assert (tmp_path / "slides.unreadable.csv").read_bytes() == content
    assert (tmp_path / "slides.unreadable-2.csv").read_bytes() == b"again"


@pytest.mark.parametrize("spelling", ["bom", "semicolons", "tabs, utf-16", "cp1252", "sep="])
def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path: Path, spelling: str) -> None:
    table = StatusTable(tmp_path)
    table.update("S\u00e9", "tile", "failed", "slide: is empty; copy it, again", mpp=0.5)
    before, text = table.rows(), table.path.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text)))
    stream = io.StringIO()
    delimiter = {"semicolons": ";", "tabs, utf-16": "\t", "sep=": ";"}.get(spelling, ",")
    csv.writer(stream, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    head = "sep=;\r\n" if spelling == "sep=" else ""
    encoding = {"tabs, utf-16": "utf-16", "cp1252": "cp1252"}.get(spelling, "utf-8-sig")
    table.path.write_bytes((head + stream.getvalue()).encode(encoding))
    assert table.problem() is None
    assert table.rows() == before


def test_a_link_in_the_place_of_the_table_goes_and_its_target_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    target = tmp_path / "precious.txt"
    target.write_text("precious", encoding="utf-8")
    (out / "slides.csv").symlink_to(target)
    StatusTable(out).update("a", "tile", "done")
    assert target.read_text(encoding="utf-8") == "precious"
    assert not (out / "slides.csv").is_symlink()
    assert [row["slide_id"] for row in StatusTable(out).rows()] == ["a"]


def test_unknown_words_are_programming_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such"):
        StatusTable(tmp_path).update("a", "tile", "done", colour="red")


def test_ids_that_differ_by_a_blank_have_rows_of_their_own(tmp_path: Path) -> None:
    table = StatusTable(tmp_path)
    table.plan(["S1 HE", "S1  HE"])
    table.update("S1 HE", "tile", "done", split="test")
    table.update("S1  HE", "tile", "failed", "cannot be read")
    assert [(r["slide_id"], r["tile"], r["split"]) for r in table.rows()] == [
        ("S1 HE", "done", "test"), ("S1  HE", "failed", "")
    ]  # fmt: skip
