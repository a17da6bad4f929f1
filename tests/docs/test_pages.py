"""The documentation: questions answered in two clicks, nothing public left out."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import pathology_scaat as ps
from pathology_scaat.execution.job_queue import read_profile

ROOT = Path(__file__).resolve().parents[2]

QUESTIONS = {
    "how do I start?": ("docs/getting-started.md", "## Install"),
    "what do I open first?": ("docs/getting-started.md", "## What to open first"),
    "how do I use my own model?": ("docs/how-to/own-model.md", "scaat import-model"),
    "how do I run on our cluster?": ("docs/how-to/cluster.md", "--cluster"),
    "what does this colour mean?": ("docs/concepts/colours.md", "you see"),
    "may I publish this number?": ("docs/concepts/publishing.md", "interval"),
}


def links(page: Path) -> dict[str, Path]:
    """Text of each link of a page to a file of the project, and the file."""
    found = re.findall(r"\[([^\]]+)\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8"))
    return {text: (page.parent / target).resolve() for text, target in found if "://" not in target}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_within_two_clicks(question: str) -> None:
    name, answer = QUESTIONS[question]
    page = ROOT / name
    assert answer in page.read_text(encoding="utf-8")
    readme = links(ROOT / "README.md")
    assert readme[question] == page, "one click: the question itself is the link"
    assert page in links(readme["Start here"]).values(), "two clicks: by the first page"


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data_manifests").glob("*.md")],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_links_lead_to_files(page: Path) -> None:
    missing = [f"{text}: {path.name}" for text, path in links(page).items() if not path.exists()]
    assert not missing


def test_readme_fits_a_screen_and_keeps_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^```bash\n", text, re.M)) == 2
    assert len(text.splitlines()) <= 62
    for honest in (
        "reconstruction",
        "worse on the one annotated real slide",
        "bad under either training",
        "not a medical device",
    ):
        assert honest in text


def test_every_public_name_is_in_the_python_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (\S+)", page, re.M)}
    names = set(ps.__all__)
    for package in ("scaat", "training", "saliency", "stitching", "export", "demo"):
        names |= set(importlib.import_module(f"pathology_scaat.{package}").__all__)
    assert names - shown <= {"METHODS"}


def test_the_version_is_one() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.findall(
        r"^## \[(\d[\d.]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert cited["version"] == ps.__version__ == newest[0]


def test_python_versions_that_are_claimed() -> None:
    """Only what was tried: docs/how-to/install.md says how."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    claimed = {c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c}
    assert claimed == {"3.11", "3.13"}
    assert f"Python {' and '.join(sorted(claimed))}: the whole of the tests" in page


@pytest.mark.parametrize("name", ["slurm", "pbs", "sge", "lsf"])
def test_the_profiles_of_job_queues_are_read(name: str) -> None:
    assert read_profile(ROOT / "pipelines" / f"cluster-{name}.yaml").queue_system == name


def test_every_profile_says_how_its_workers_offer_a_gpu() -> None:
    """What explains asks for it; a profile without it explained on whatever worker was free."""
    for path in sorted((ROOT / "pipelines").glob("cluster-*.yaml")):
        text = path.read_text(encoding="utf-8")
        gpu = 'worker_extra_args: ["--resources", "GPU=1"]'
        assert gpu in text or "cluster-slurm-gpu.yaml" in text, path.name
    options = read_profile(ROOT / "pipelines" / "cluster-slurm-gpu.yaml").options
    assert options["cores"] == options["processes"]  # one thread each
    assert options["worker_extra_args"] == ["--resources", "GPU=1"]


def test_the_exporter_in_contributing_is_one(tmp_path: Path) -> None:
    from types import SimpleNamespace

    import numpy as np

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    ast.parse(code)
    space: dict[str, object] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), space)
    values = np.array([[0.0, np.nan], [0.2, 0.9]], np.float32)
    context = SimpleNamespace(
        slide_map=SimpleNamespace(read=lambda name: values), map_frame="frame"
    )
    export = space["export_peaks"]
    path = tmp_path / f"a{export.suffix}"  # type: ignore[attr-defined]
    assert export(path, context) == "frame"  # type: ignore[operator]
    assert path.read_text().splitlines() == ["row_px,column_px", "1,1"]


def test_a_site_that_loads_from_elsewhere_is_found(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        check_site = importlib.import_module("check_site")
    finally:
        sys.path.pop(0)
    page = tmp_path / "a.html"
    page.write_text('<a href="https://example.org">x</a><script src="static/a.js"></script>')
    assert check_site.loaded_from_away(tmp_path) == []
    page.write_text(
        '<link rel="stylesheet" href="//fonts.example.org/f.css"><img src="https://e.org/i">'
    )
    (tmp_path / "a.css").write_text("@import url(https://example.org/a.css);")
    assert len(check_site.loaded_from_away(tmp_path)) == 4
