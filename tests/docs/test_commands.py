"""README and documentation print commands that exist, and that run.

Every command is looked up in the real application: its name, each of its options and, where it
stands in a block to be copied, its arguments. Those of :data:`RUN` are run as they are printed, on
a drawn cohort of three slides, with what is added there to make them small.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from drawn_slides import make_cohort
from printed import ROOT, Printed, all_options, application, options_of, pages, printed, text_of

ALL = list(dict.fromkeys(printed()))
OTHER_PROGRAMS = {
    "--budget", "--build-arg", "--cohort", "--config", "--containall", "--cores", "--cpus-per-task",
    "--data", "--executor", "--gpus", "--gres", "--index-url", "--jobs", "--mem", "--memory-limit",
    "--name", "--net", "--network", "--network=none", "--networks", "--no-crop", "--no-venv",
    "--nv",
    "--part", "--parts", "--patches", "--pwd", "--resources", "--rm", "--seconds", "--stored",
    "--system-site-packages", "--table", "--time", "--user", "--variant", "--work",
}  # fmt: skip
"""Options of docker, apptainer, snakemake, sbatch, dask, QuPath, pip, and of the benchmarks."""

SMALL = ["--mpp", "1", "--patch-size", "32", "--overlap", "0"]
RUN: dict[str, list[str]] = {
    "--version": [],
    "info slides/a.svs": [],
    "tile --manifest cohort.csv --out out/ --mpp 0.5 --patch-size 256 --overlap 0.5": SMALL,
    "train --manifest cohort.csv --out out/ --epochs 20": ["--epochs", "3"],
    "explain --out out/": [],
    "predict --manifest cohort.csv --out out/": [],
    "stitch --out out/": [],
    "export --out out/ --manifest cohort.csv": ["--formats", "geojson,png"],
    "verify --out out/ --manifest cohort.csv": [],
    "run --manifest new.csv --out out2/ --model out/model": ["--formats", "geojson"],
    "import-annotations corrected/ --out out/ --manifest cohort.csv": [],
}
"""As they are printed, in the order in which they are run; what is added comes last, and wins."""

NOT_RUN = {
    "demo": "minutes: README's first command, run as it stands by .ci/run",
    "doctor": "tests/cli/test_command.py",
    "compare": "minutes: tests/evaluation/test_compare_methods.py",
    "evaluate": "a minute: tests/evaluation/test_evaluate.py",
    "review": "a server: tests/review",
    "import-review": "needs verdicts: tests/review",
    "make-manifest": "tests/cohort/test_peer_tables.py",
    "finetune": "minutes: tests/training",
    "import-model": "tests/imported",
    "report": "needs a finished run: tests/report",
    "config": "tests/cli/test_settings.py",
}
"""Commands that no page's line is run of here, and where they are run instead."""


@pytest.mark.parametrize("command", ALL, ids=lambda c: f"{c.page}: {c.text[:60]}")
def test_a_printed_command_exists(command: Printed) -> None:
    group = application()
    name, *arguments = command.arguments
    if name.startswith("-"):
        assert name in options_of(group)
        return
    if name in ("COMMAND", "VERB"):
        return
    assert name in group.commands, f"{command.page}: there is no 'scaat {name}'"
    verb = group.commands[name]
    given = [a.partition("=")[0] for a in arguments if a.startswith("--")]
    assert set(given) <= options_of(verb), f"{command.page}: scaat {command.text}"
    if command.is_whole and "--help" not in arguments:
        with click.Context(group) as above, verb.make_context(name, arguments, parent=above):
            pass  # a wrong value, or a missing argument, raises


def test_options_that_prose_names_exist() -> None:
    known = all_options() | OTHER_PROGRAMS
    wrong = {
        f"{page.relative_to(ROOT)}: {option}"
        for page in pages()
        if page.suffix == ".md"
        for span in re.findall(r"`([^`\n]+)`", text_of(page))
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)
        if option not in known and "python " not in span
    }
    assert not wrong


def test_the_page_of_commands_names_all() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `scaat ([a-z-]+)", page, re.MULTILINE))
    assert listed == set(application().commands)


def test_every_command_is_run_here_or_elsewhere() -> None:
    here = {text.split()[0] for text in RUN if not text.startswith("-")}
    assert {c.arguments[0] for c in ALL if c.is_whole} - here <= {*NOT_RUN, "--help", "--version"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the printed commands name: cohort.csv, new.csv, slides/a.svs, corrected/."""
    work = tmp_path_factory.mktemp("printed")
    make_cohort(work)
    (work / "slides").mkdir()
    shutil.copy(work / "s0.tiff", work / "slides" / "a.svs")
    (work / "new.csv").write_text("slide_path,slide_id\ns2.tiff,new\n")
    (work / "corrected").mkdir()
    shutil.copy(work / "s1.geojson", work / "corrected" / "slide-1.geojson")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        yield work


@pytest.mark.slow
@pytest.mark.parametrize("text", RUN)
def test_a_printed_command_runs(text: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from pathology_scaat.cli import app, run_command

    assert any(c.text == text for c in ALL), "no page prints it any more: take it out of RUN"
    arguments = [*text.split(), *RUN[text]]
    verb = application().commands.get(arguments[0])
    if verb is not None and "--workers" in options_of(verb):
        arguments += ["--workers", "0"]
    code = run_command(lambda: app(arguments, standalone_mode=False))
    said = capfd.readouterr()
    assert code in (0, 4), said.err  # 4: so small a model has learnt nothing
