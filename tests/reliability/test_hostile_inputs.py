"""Every hostile input gives one sentence and its row: no traceback, no hang, nothing outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_inputs import (
    ACCEPTED,
    ANNOTATIONS,
    BROKEN,
    MADE,
    MANIFESTS,
    SETTINGS,
    Maker,
    accepted_message,
    annotation_message,
    manifest_message,
    settings_message,
    slides,
    tile_all,
)
from hostile_timing import DURING, during_message
from reliability_tools import digest

CAN_BE_TILED = {
    "`blank_black.tiff`",
    "`blank_white.tiff`",
    "`comma_mpp.svs`",
    "`corrupt_tiles.svs`",
}


def assert_one_sentence(text: str) -> None:
    assert text, "no message"
    assert "Traceback" not in text
    assert "\n" not in text
    assert "internal error" not in text
    assert "unforeseen" not in text
    assert 20 < len(text) < 500
    assert text.endswith(".")


def test_every_slide_of_a_hostile_batch_has_its_row(tmp_path: Path) -> None:
    rows, done = tile_all(tmp_path)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert set(rows) == set(slides())
    for title, row in rows.items():
        assert row["tile"] in {"done", "failed"}, title
        if title.startswith("a name "):
            assert row["tile"] == "done", row["reason"]
            assert int(row["n_patches"]) > 0
        if row["tile"] == "failed":
            assert title not in CAN_BE_TILED, (title, row["reason"])
            assert_one_sentence(row["reason"])
    if "`corrupt_tiles.svs`" in rows:
        assert int(rows["`corrupt_tiles.svs`"]["n_unreadable"]) > 0
        assert int(rows["`corrupt_tiles.svs`"]["n_patches"]) > 0
    # Nothing but the manifest, the inputs and the output folder: no write outside.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort.csv", "in", "out"]
    assert not list(tmp_path.rglob("*.partial-*"))
    assert not (Path.cwd() / "x").exists()
    assert len(MADE) >= 10


REFUSED = [
    pytest.param(make, message, id=title)
    for group, message in ((MANIFESTS, manifest_message), (SETTINGS, settings_message))
    for title, make in group.items()
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_hostile_tables_and_settings_are_refused(
    make: Maker, message: Callable[[Maker, Path], tuple[str, int]], tmp_path: Path
) -> None:
    text, code = message(make, tmp_path)
    assert code == 2
    assert_one_sentence(text)
    assert str(tmp_path) not in text
    assert not (Path.cwd() / "x").exists()
    assert not (tmp_path / "out").exists() or not digest(tmp_path / "out")


@pytest.mark.parametrize("make", ANNOTATIONS.values(), ids=ANNOTATIONS.keys())
def test_hostile_annotations_fail_their_slide_only(make: Maker, tmp_path: Path) -> None:
    text, code = annotation_message(make, tmp_path)
    assert code == 3
    assert_one_sentence(text)
    assert "root:" not in text


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_odd_input_that_is_good_is_taken(make: Maker, tmp_path: Path) -> None:
    text, code = accepted_message(make, tmp_path)
    assert code == 0, text
    assert text.startswith("done: ")
    assert text.isprintable()
    ids = re.findall("`([^`]*)`", text)
    assert len(set(ids)) == len(ids) == text.count(" and ") + 1


@pytest.mark.slow
@pytest.mark.parametrize("case", DURING.values(), ids=DURING.keys())
def test_a_slide_that_changes_in_the_middle_of_a_batch(case: Any, tmp_path: Path) -> None:
    text, code = during_message(case, tmp_path)
    assert code == 3, text
    assert_one_sentence(text)
    assert not list((tmp_path / "out").rglob("*.partial-*"))


def test_the_documented_table_names_every_input() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    titles = [
        *MADE,
        *DURING,
        *MANIFESTS,
        *SETTINGS,
        *ANNOTATIONS,
        *ACCEPTED,
        *(f"`{name}`" for name in BROKEN),
    ]
    assert [title for title in titles if f"| {title} |" not in text] == []
