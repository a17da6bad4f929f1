"""With --json: one document on standard output, keys as documented, exit codes as without."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from pathology_scaat.cli import app, run_command

DOCS = Path(__file__).resolve().parents[2] / "docs" / "json.md"
COMMON = {"command", "version", "exit_code", "error", "notes"}
SMALL = ("--mpp", "1.0", "--patch-size", "64", "--workers", "0")
WITHOUT_REPORT = {"review"}


def documented() -> dict[str, set[str]]:
    """Keys of each command, by docs/json.md."""
    found: dict[str, set[str]] = {}
    for section in DOCS.read_text(encoding="utf-8").split("\n## ")[2:]:
        head, _, body = section.partition("\n")
        for command in re.findall(r"`scaat ([\w-]+)`", head):
            found[command] = set(re.findall(r"^\| `(\w+)` \|", body, flags=re.MULTILINE))
    return found


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = run_command(lambda: app([*map(str, words), "--json"], standalone_mode=False))
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert set(document) >= COMMON
    assert document["exit_code"] == code
    assert (document["error"] is None) == (code == 0)
    return code, document, said.err


def test_every_command_that_reports_has_json_and_is_documented() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    with_json = {n for n, c in commands.items() if any("--json" in p.opts for p in c.params)}
    assert with_json == set(commands) - WITHOUT_REPORT
    assert set(documented()) == with_json


@pytest.fixture(scope="module")
def whole(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, dict[str, Any], str]:
    """Output folder, exit code, document and what people read of a whole run."""
    out = tmp_path_factory.mktemp("json") / "out"
    words = ["run", "--json", "--manifest", cohort, "--out", out, "--epochs", 2, *SMALL]
    said, document = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(document), contextlib.redirect_stderr(said):
        code = run_command(lambda: app([*map(str, words)], standalone_mode=False))
    return out, code, json.loads(document.getvalue()), said.getvalue()


@pytest.mark.slow
def test_a_run_is_one_document(whole: tuple[Path, int, dict[str, Any], str]) -> None:
    out, code, document, said = whole
    assert (document["command"], document["exit_code"]) == ("run", code)
    assert code == 3
    assert set(document) == COMMON | (documented()["run"] - {"plan"})
    assert document["error"]["problem"] == "failed"
    assert [stage["stage"] for stage in document["stages"]] == [
        "tile",
        "explain",
        "stitch",
        "export",
    ]
    tiled = document["stages"][0]
    assert (len(tiled["done"]), tiled["already_there"]) == (3, [])
    assert set(tiled["failed"]) == {"slide-broken"}
    assert document["open_first"] == str(out / "overlays" / "index.html")
    assert document["notes"]
    assert "tile: 3 done" in said
    assert "open first" in said


@pytest.mark.slow
def test_the_stages_and_what_looks_at_a_run(
    whole: tuple[Path, int, dict[str, Any], str], cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = whole[0]
    keys = documented()
    given = ("--out", out, "--manifest", cohort)
    code, document, said = ask(capsys, "tile", *given, *SMALL, "--overlap", "0.5")
    assert code == 3
    assert len(document["stages"][0]["already_there"]) == 3
    assert set(document) == COMMON | keys["tile"]
    for verb in ("explain", "stitch", "export"):
        code, document, said = ask(capsys, verb, "--out", out, "--workers", 0)
        assert code == 0, said
        first = {"open_first"} if verb == "export" else set()
        assert set(document) == COMMON | keys[verb] | first
        assert f"{verb}: 0 done" in said or verb == "export"
    code, document, said = ask(capsys, "predict", *given)
    assert code == 0, said
    assert set(document) == COMMON | keys["predict"]
    assert document["n_predicted"] == 3
    code, document, said = ask(capsys, "verify", "--out", out)
    assert code == 0, said
    assert set(document) == COMMON | keys["verify"]
    assert document["n_artifacts"] == len(document["findings"]) > 3
    code, document, said = ask(capsys, "info", cohort.parent / "s0.tiff")
    assert code == 0, said
    assert set(document) >= COMMON | keys["info"]
    overlay = next((out / "overlays").glob("*.geojson.gz"))
    code, document, said = ask(capsys, "import-annotations", overlay, "--out", out)
    assert code in (0, 2, 3)
    if code == 0:
        assert set(document) == COMMON | keys["import-annotations"]


@pytest.mark.slow
def test_faults_are_in_the_document(
    whole: tuple[Path, int, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = whole[0]
    overlay = out / "overlays" / "slide-0.geojson.gz"
    sound = overlay.read_bytes()
    try:
        overlay.write_bytes(sound[:-20])
        code, document, _ = ask(capsys, "verify", "--out", out)
    finally:
        overlay.write_bytes(sound)
    assert code == 3
    assert document["n_faults"] >= 1
    faulty = [one for one in document["findings"] if not one["ok"]]
    assert faulty[0]["artifact"] == "overlays/slide-0.geojson.gz"
    assert document["error"]["subject"] == f"{document['n_faults']} fault(s)"


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (["explain", "--out", "nowhere"], "--out"),
        (["tile"], "--out"),
        (["info", "nothing.svs"], "nothing.svs"),
        (["verify", "--bogus"], "command line"),
        (["run", "--set", "tile.mp=1"], "options"),
    ],
)
def test_an_error_has_subject_problem_and_remedy(
    scaat: Any, tmp_path: Path, words: list[str], subject: str
) -> None:
    done = scaat(*words, "--json", cwd=tmp_path)
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert set(document) == COMMON
    assert set(document["error"]) == {"subject", "problem", "remedy"}
    assert document["error"]["subject"] == subject
    assert document["error"]["problem"]
    assert document["error"]["remedy"]


def test_one_command_leaves_nothing_to_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    ask(capsys, "config")
    assert run_command(lambda: app(["config"], standalone_mode=False)) == 0
    assert capsys.readouterr().out.startswith("# yaml-language-server")
