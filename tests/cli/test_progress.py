"""Away from a terminal: lines with the time, not too many, and an end that can be believed."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pathology_scaat.artifacts.failure_log import redactor_for
from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.artifacts.readme import FILE_NAME, TEXT, write_readme
from pathology_scaat.artifacts.run_log import RunLog, StageTime, stage_done, stage_times
from pathology_scaat.cli import progress
from pathology_scaat.cli.pace import LEAST_S, Pace
from pathology_scaat.cli.progress import TerminalReporter
from pathology_scaat.errors import UsageError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline.run_log import LoggingReporter, logged
from pathology_scaat.pipeline.tile import tile

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


@given(st.floats(0.01, 1e4), st.integers(10, 5000), st.floats(1e3, 1e9))
def test_a_steady_pace_is_reported_right(unit_s: float, n_done: int, start_s: float) -> None:
    pace = Pace(2 * n_done, start_s)
    now = start_s
    for done in range(1, n_done + 1):
        now = start_s + done * unit_s
        pace.at(now, done)
    left = pace.left_s(now)
    if now - start_s < LEAST_S:
        assert left is None
    else:
        assert left == pytest.approx(n_done * unit_s, rel=0.02)


@given(st.integers(100, 100_000), st.floats(0.5, 60.0))
def test_what_was_there_already_promises_no_early_end(n_there: int, unit_s: float) -> None:
    """Of a run that goes on, the first thousands are found in a second."""
    n_to_make = 50
    pace = Pace(n_there + n_to_make, 0.0)
    for number in range(50):
        pace.at(number / 50, n_there * (number + 1) / 50)
    now = 1.0
    for made in range(1, 26):
        now = 1.0 + made * unit_s
        pace.at(now, n_there + made)
    left = pace.left_s(now)
    assert left is not None
    assert left == pytest.approx(25 * unit_s, rel=0.3)


def test_the_time_that_starting_takes_is_not_taken_for_the_pace() -> None:
    """Twenty seconds of loading and then the first batch promised forty minutes, of one."""
    pace = Pace(1000, 0.0)
    pace.at(22.0, 9)
    assert pace.left_s(22.0) is None
    pace.at(30.0, 100)
    assert pace.left_s(30.0) is not None
    long = Pace(100_000, 0.0)  # of a night's work little is done in a minute
    for second in range(1, 70):
        long.at(float(second), second)
    assert long.left_s(70.0) is not None


def test_nothing_done_is_no_pace() -> None:
    pace = Pace(10, 0.0)
    pace.at(100.0, 0.0)
    assert pace.left_s(100.0) is None


def clocked(monkeypatch: pytest.MonkeyPatch) -> tuple[TerminalReporter, io.StringIO, list[float]]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = io.StringIO()
    return TerminalReporter(Console(file=shown, width=200)), shown, now


def test_a_night_gives_some_dozens_of_lines_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, shown, now = clocked(monkeypatch)
    reporter.begin("tile", 36_000)
    for _ in range(36_000):
        now[0] += 1.0
        reporter.advance("tile", "120 patches/s")
    reporter.note("two slides are odd")
    reporter.end("tile")
    lines = shown.getvalue().splitlines()
    assert 40 < len(lines) < 160
    assert all(LINE.match(line) for line in lines), lines
    assert "36000 to do" in lines[0]
    half = next(line for line in lines if "tile: 50 %" in line or "tile: 51 %" in line)
    assert "120 patches/s" in half
    assert re.search(r"about (4|5) hours left", half), half
    assert lines[-2].endswith("note: two slides are odd")
    assert lines[-1].endswith("tile: done in 36000.0 s")


def test_a_quiet_command_writes_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    reporter = TerminalReporter(Console(file=shown), quiet=True)
    reporter.begin("tile", 2)
    reporter.note("odd")
    reporter.end("tile")
    assert shown.getvalue() == ""


def test_the_log_of_a_command(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tile(cohort, out, engine=EngineConfig(workers=0))
    first = (out / "run.log").read_text(encoding="utf-8").splitlines()
    assert first[0].startswith("scaat tile ")
    assert all(re.match(r"^\d+:\d\d:\d\d ", line) for line in first[1:])
    assert any("tile: failed: slide-broken: slide: " in line for line in first)
    assert str(tmp_path) not in "\n".join(first)
    assert "broken.svs" not in "\n".join(first)
    made = stage_times(out)["tile"]
    assert made.n_slides == 3
    assert made.n_patches > 0
    assert made.seconds > 0
    # nothing to make: its time says nothing, and the former is kept
    tile(cohort, out, engine=EngineConfig(workers=0))
    assert stage_times(out)["tile"] == made
    assert (out / "run.log").read_text(encoding="utf-8").count("scaat tile ") == 2


def test_what_the_log_hides(tmp_path: Path) -> None:
    out = tmp_path / "Smith"
    claim_output(out)
    log = RunLog(out, "tile")
    log.write(f"dashboard at http://10.0.0.7:8787/status, for {out}/patches and '{out}'")
    text = (out / "run.log").read_text(encoding="utf-8")
    assert "10.0.0.7" not in text
    assert "Smith" not in text
    assert "dashboard at <address>" in text
    assert "Smith" not in redactor_for(out)(f"in {out}/x")


def test_the_times_of_the_folds_of_one_command_are_added(tmp_path: Path) -> None:
    claim_output(tmp_path)
    for _ in range(2):
        log = RunLog(tmp_path, "run")
        for _ in range(3):
            log.write(stage_done("explain", 2.0, 1, 10))
        log.write(stage_done("stitch", 1.0, 0, 0))
    assert stage_times(tmp_path) == {"explain": StageTime(6.0, 3, 30)}
    assert stage_times(tmp_path / "nowhere") == {}


def test_a_command_within_another_writes_into_its_log(tmp_path: Path) -> None:
    outer = logged(None, tmp_path, "run")
    assert logged(outer, tmp_path, "tile") is outer
    assert isinstance(outer, LoggingReporter)


def test_a_folder_that_is_not_ours_gets_no_log(tmp_path: Path) -> None:
    logged(None, tmp_path, "tile").note("a word")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run.log").write_text("mine")
    with pytest.raises(UsageError, match=r"run\.log"):
        claim_output(tmp_path, exists_ok=True)


def test_the_readme_is_put_where_none_is(tmp_path: Path) -> None:
    write_readme(tmp_path)
    text = (tmp_path / FILE_NAME).read_text(encoding="utf-8")
    assert text == TEXT
    assert max(map(len, text.splitlines())) <= 100
    for words in ("overlays/index.html", "no diagnosis", "slides.csv", "run.log", "press F"):
        assert words in text
    (tmp_path / FILE_NAME).write_text("mine")
    write_readme(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == "mine"
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "target")
    write_readme(tmp_path)
    assert not (tmp_path / "target").exists()


def test_the_readme_names_what_a_run_makes(tmp_path: Path, cohort: Path, scaat: Any) -> None:
    done = scaat(
        "tile", "--manifest", cohort, "--out", tmp_path / "out", "--mpp", 1, "--workers", 0
    )
    assert done.returncode == 3
    named = {line.split()[0].rstrip("/") for line in TEXT.splitlines() if line[:1].isalpha()}
    for path in (tmp_path / "out").iterdir():
        assert path.name.startswith(".") or path.name in named, path.name
    lines = [line for line in done.stderr.splitlines() if "to do" in line or "done in" in line]
    assert lines
    assert all(LINE.match(line) for line in lines), lines


def test_a_path_in_a_table_stays_in_one_piece_in_a_log() -> None:
    """It was broken at column 80, where there is no terminal to be narrow."""
    path = "/data/" + "x" * 90 + "/overlays/<slide>.geojson.gz"
    code = (
        "import sys\n"
        "from pathology_scaat.cli.common import folded\n"
        "from pathology_scaat.cli.output import stderr, stdout\n"
        "table = folded('what', 'where')\n"
        "table.add_row('drag onto the slide', sys.argv[1])\n"
        "stdout.print(table)\n"
        "stderr.print(table)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, text=True
    )
    assert path in done.stdout
    assert path in done.stderr
    narrow = subprocess.run(
        [sys.executable, "-c", code, path], env=environment | {"COLUMNS": "60"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert path not in narrow.stdout
    assert max(len(line) for line in narrow.stdout.splitlines()) <= 60
