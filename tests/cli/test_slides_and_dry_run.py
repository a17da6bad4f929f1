"""--slides takes some slides and refuses others by name; --dry-run measures and writes nothing."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pathology_scaat.cli import app, run_command
from pathology_scaat.errors import UsageError
from pathology_scaat.pipeline.stage import known_slides

SMALL = ("--mpp", "1.0", "--patch-size", "64", "--workers", "0")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_command(lambda: app([*map(str, words)], standalone_mode=False))
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_only_the_slides_that_were_asked_for(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--manifest", cohort, "--out", out, *SMALL)
    code, said, err = run(capsys, "tile", *given, "--slides", "slide-1, slide-0")
    assert code == 0, err
    assert "tile: 2 done" in said
    ids = [row["slide_id"] for row in rows(out)]
    assert ids == ["slide-0", "slide-1", "slide-2", "slide-broken"]
    assert [row["tile"] for row in rows(out)] == ["done", "done", "pending", "pending"]
    # The classes are the cohort's, whichever slides are cut first.
    names = json.loads((out / "patches" / "slide-0.zarr" / "zarr.json").read_text())
    assert "Tumor" in json.dumps(names)
    assert "Normal" in json.dumps(names)
    code, said, err = run(capsys, "tile", *given, "--slides", "slide-2")
    assert code == 0, err
    assert [row["slide_id"] for row in rows(out)] == ids
    assert [row["tile"] for row in rows(out)] == ["done", "done", "done", "pending"]


def test_an_unknown_slide_is_refused_with_what_was_meant(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, _, err = run(
        capsys, "tile", "--manifest", cohort, "--out", out, *SMALL, "--slides", "slide-O,slide-1"
    )
    assert code == 2
    assert "--slides: 'slide-O': no slide of the manifest is called so" in err
    assert "did you mean 'slide-" in err
    assert not (out / "patches").exists()
    for verb in ("explain", "stitch", "export"):
        code, _, err = run(capsys, verb, "--out", out, "--slides", " , ")
        assert (code, "names no slide" in err) == (2, True)
    assert known_slides(["b", "a", "b"], ["a", "b", "c"], "here") == ("b", "a")
    with pytest.raises(UsageError, match="there are 'a', 'b'"):
        known_slides(["zzz"], ["a", "b"], "here")


@pytest.mark.parametrize("verb", ["explain", "stitch", "export"])
def test_a_slide_without_the_stage_before_is_refused(
    verb: str, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"explain": "patches/a.zarr", "stitch": "saliency/a.zarr", "export": "maps/a.ome.zarr"}
    (tmp_path / before[verb]).mkdir(parents=True)
    code, _, err = run(capsys, verb, "--out", tmp_path, "--slides", "a,b")
    assert code == 2
    assert "'b': no slide with a result of 'scaat" in err


def test_a_dry_run_counts_measures_and_writes_nothing(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    out, salt = tmp_path / "out", tmp_path / "salt"
    given = ("--manifest", cohort, "--out", out, *SMALL, "--pseudonymize", salt)
    code, said, err = run(capsys, "run", *given, "--dry-run", "--json")
    assert code == 3, err
    document = json.loads(said)
    assert document["error"]["problem"] == "would fail"
    plan = document["plan"]
    slides = {slide["slide_id"]: slide for slide in plan["slides"]}
    assert "broken.svs" in slides["slide-broken"]["problem"]
    assert slides["slide-broken"]["n_patches"] is None
    assert sum(slide["n_patches"] or 0 for slide in slides.values()) == plan["n_patches"] > 0
    assert plan["n_bytes"] > 0
    stages = {stage["stage"]: stage for stage in plan["stages"]}
    assert stages["tile"]["source"].startswith("measured here: ")
    assert stages["tile"]["seconds"] > 0
    for name in ("train", "explain", "predict", "stitch", "export"):
        assert stages[name]["seconds"] is None
        assert stages[name]["source"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]
    assert list(scratch.glob("scaat-*")) == []  # PyTorch makes a folder of its own there


def test_what_a_dry_run_estimates_is_what_a_run_takes(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--manifest", cohort, "--out", tmp_path / "out", *SMALL, "--overlap", "0.5")
    _, said, _ = run(capsys, "run", *given, "--dry-run", "--json")
    plan = json.loads(said)["plan"]
    code, _, err = run(capsys, "tile", *given)
    assert code == 3, err
    made: dict[str, Any] = {row["slide_id"]: row["n_patches"] for row in rows(tmp_path / "out")}
    for slide in plan["slides"]:
        if not slide["problem"]:
            assert str(slide["n_patches"]) == made[slide["slide_id"]]
    stores = (tmp_path / "out" / "patches").rglob("*")
    size = sum(path.stat().st_size for path in stores if path.is_file())
    assert plan["n_bytes"] == pytest.approx(size, rel=0.5)
