"""Each command and each example of docs/standards.md and docs/python.md runs as it is printed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from map_stores import darkness_store

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cli import run_command
from pathology_scaat.cli.app import app
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.stitching import StitchConfig, stitch_slide

DOCS = Path(__file__).resolve().parents[2] / "docs"
SLIDE = "slide-1"


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text("utf-8"), re.DOTALL)


def commands(name: str) -> list[str]:
    return [line for block in blocks(name, "sh") for line in block.splitlines() if line]


def run(line: str) -> int:
    """A printed command, through the parser and the reporting of errors of the real one."""
    program, *arguments = shlex.split(line)
    assert program == "scaat"
    return run_command(lambda: app(arguments, standalone_mode=False))


def test_the_page_prints_the_commands_that_are_run_here() -> None:
    lines = commands("standards.md")
    assert [line.split()[1] for line in lines] == ["export", "report", "report"]


@pytest.mark.parametrize("line", [c for c in commands("standards.md") if " report " in c])
def test_reports(
    line: str, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    ignored = shutil.ignore_patterns("patches", "saliency", "maps", "tissue")
    shutil.copytree(small_run, tmp_path / "OUT", ignore=ignored)
    assert run(line) == 0
    assert "TRIPOD+AI: of 27 items" in capsys.readouterr().out
    assert (tmp_path / "OUT" / "ro-crate-metadata.json").is_file()
    assert (tmp_path / "MODEL" / "README.md").is_file() == ("MODEL" in line)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dicom(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("highdicom")
    (line,) = (c for c in commands("standards.md") if " export " in c)
    out, slide = tmp_path / "OUT", data_dir / "formats" / "dicom_wsi"
    for name in ("patches", "saliency", "maps"):
        (out / name).mkdir(parents=True)
    StatusTable(out).plan(["D"])
    config = TileConfig(mpp=2.0, patch_size_px=64)
    tile_slide(TileJob(slide, "D", out / "patches" / "D.zarr", config))
    darkness_store(out / "patches" / "D.zarr", out / "saliency" / "D.zarr", 4)
    stitch_slide(out / "saliency" / "D.zarr", out / "maps" / "D.ome.zarr", StitchConfig())
    (tmp_path / "cohort.csv").write_text(f"slide_path,slide_id\n{slide},D\n")
    (out / "review").mkdir()
    (out / "review" / "verdicts.csv").write_text(
        "reviewer,slide_id,region_id,target_class,answer,blind,seconds,note\n"
        "Dr Strange,D,slide,tumour,yes,no,,seen with Jane Doe\n"
    )
    assert run(f"{line} --workers 0") == 0
    made = {p.name for p in (out / "overlays").glob("D.*.dcm")}
    assert made == {"D.ann.dcm", "D.seg.dcm", "D.pm.dcm", "D.sr.dcm"}
    report = (out / "overlays" / "D.sr.dcm").read_bytes()
    assert b"Verdict of reader 1: tumour" in report
    assert b"Strange" not in report  # readers are numbered, notes left out
    assert b"Jane" not in report


def needed(code: str) -> str | None:
    """A library of an extra that an example needs."""
    return "spatialdata" if "spatial_data" in code else "xarray" if "to_xarray" in code else None


@pytest.mark.parametrize("number", range(len(blocks("python.md", "python"))))
def test_examples(
    number: int, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    code = blocks("python.md", "python")[number].replace("ID", SLIDE)
    wanted = needed(code)
    if wanted and importlib.util.find_spec(wanted) is None:
        pytest.skip(f"{wanted} is not installed")
    (tmp_path / "OUT").symlink_to(small_run)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"python.md {number}", "exec"), {})
    assert capsys.readouterr().out or "write" in code
