"""A large status table is not rewritten for each change, and nobody who reads it misses one."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.artifacts import status_writer
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_changes import (
    FILE_NAME,
    append_changes,
    changes_since,
    read_changes,
)
from pathology_scaat.artifacts.status_columns import FACTS, STAGES, StatusChange
from pathology_scaat.artifacts.status_writer import StatusWriter
from pathology_scaat.errors import StoreError

WORDS = st.sampled_from(
    [
        ("pending", ""),
        ("done", ""),
        ("skipped", "no tissue"),
        ("failed", "=1+1"),
        ("failed", "torn"),
    ]
)
"""A state and its reason, as stages tell them: a reason goes with what was not done."""

CHANGES = st.lists(
    st.builds(
        lambda slide, stage, words, facts: (slide, stage, *words, facts),
        st.sampled_from(["a", "b", "ü, \n=c"]),
        st.sampled_from(STAGES),
        WORDS,
        st.dictionaries(
            st.sampled_from(FACTS), st.none() | st.integers(0, 9) | st.just("x\ny"), max_size=2
        ),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(before=CHANGES, changes=CHANGES, more=CHANGES)
def test_appended_or_rewritten_the_table_says_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[StatusChange],
    changes: list[StatusChange],
    more: list[StatusChange],
) -> None:
    rewritten = StatusTable(tmp_path_factory.mktemp("rewritten"))
    appended = StatusTable(tmp_path_factory.mktemp("appended"))
    for table in (rewritten, appended):
        table.plan(["a", "b"])
        table.update_many(before)
    rewritten.update_many(changes)
    appended.append_many(changes)
    waiting = appended.path.with_name(FILE_NAME)
    assert appended.rows() == rewritten.rows()
    with patch.object(Path, "unlink"):  # killed when the table stood and they were not yet gone
        appended.update_many([])
    assert appended.rows() == rewritten.rows()
    appended.append_many(more)
    rewritten.update_many(more)
    assert appended.rows() == rewritten.rows()
    appended.update_many([])
    assert not waiting.exists()
    assert appended.path.read_bytes() == rewritten.path.read_bytes()


def test_a_torn_line_swallows_no_other(tmp_path: Path) -> None:
    table = StatusTable(tmp_path)
    table.plan(["a", "b"])
    table.append_many([("a", "tile", "done", "", {})])
    with (tmp_path / FILE_NAME).open("a", encoding="utf-8") as stream:
        stream.write('\n["b", "tile", "do')
    table.append_many([("b", "explain", "failed", "why", {"n_patches": 3})])
    with (tmp_path / FILE_NAME).open("a", encoding="utf-8") as stream:
        stream.write('["b", "sing", "done", "", {}]\n[1]\nnull\n')
    rows = {row["slide_id"]: row for row in table.rows()}
    assert rows["a"]["tile"] == "done"
    assert (rows["b"]["tile"], rows["b"]["explain"], rows["b"]["n_patches"]) == (
        "pending", "failed", "3",
    )  # fmt: skip


def test_a_costly_table_is_rewritten_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = StatusTable(tmp_path)
    table.plan([f"s{i}" for i in range(20)])
    monkeypatch.setattr(status_writer, "BOOKKEEPING_SHARE", 1e-9)
    writer = StatusWriter(table)
    writer.add([("s0", "tile", "done", "", {})])
    writer._write()  # the first is a rewriting, which tells what one costs
    stood = table.path.read_bytes()
    for i in range(1, 20):
        writer.add([(f"s{i}", "tile", "done", "", {})])
        writer._write()
        assert table.path.read_bytes() == stood
        assert table.rows()[i]["tile"] == "done"
    writer.close()
    assert table.path.read_text(encoding="utf-8").count(",done,") == 20
    assert not (tmp_path / FILE_NAME).exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "theirs"
    target.write_text("precious", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    table = StatusTable(out)
    table.plan(["a"])
    (out / FILE_NAME).symlink_to(target)
    with pytest.raises(StoreError, match="cannot be written"):
        table.append_many([("a", "tile", "done", "", {})])
    assert table.rows()[0]["tile"] == "pending"
    table.update("a", "tile", "done")
    assert target.read_text(encoding="utf-8") == "precious"


def test_too_many_are_folded_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathology_scaat.artifacts.status_changes.MAX_BYTES", 100)
    table = StatusTable(tmp_path)
    table.plan(["a"])
    for n in range(9):
        table.append_many([("a", "tile", "done", "", {"n_patches": n})])
    assert "8" in table.rows()[0]["n_patches"]
    assert (tmp_path / FILE_NAME).stat().st_size < 200
    assert append_changes(tmp_path / "other", [("a", "tile", "done", "", {})])
    found = changes_since(read_changes(tmp_path / "other"), b"")
    assert found == [("a", "tile", "done", "", {})]
