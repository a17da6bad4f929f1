"""The command itself: quick, offline, one sentence for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from pathology_scaat.cli import app
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.exporters import EXPORTERS
from pathology_scaat.pipeline.config import RunConfig
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.scaat.names import METHODS
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.training.config import TrainConfig

VERBS = (
    "info", "tile", "train", "explain", "stitch", "export", "run", "demo", "doctor", "verify",
    "evaluate", "compare", "import-annotations", "predict", "make-manifest", "config", "finetune",
)  # fmt: skip
HEAVY = ("torch", "dask", "zarr", "tiatoolbox", "matplotlib", "openslide", "numpy", "pandas")


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pathology_scaat.cli import app, run_command\n"
        "run_command(lambda: app(['--help'], standalone_mode=False))\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = os.times()  # of the processor: a busy machine makes no command slower
        seconds.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb in done.stdout
    assert min(seconds) < 1.0


def test_what_needs_no_network_starts_without_torch() -> None:
    """Torch takes seconds to load: what only reads, draws or refuses does not wait for it."""
    code = (
        "import sys\n"
        "from pathology_scaat.pipeline import export, info, review, settings, stitch\n"
        "from pathology_scaat.pipeline import tile, verify, report\n"
        "loaded = [m for m in ('numba', 'scipy') if m in sys.modules]\n"
        "assert not loaded, loaded\n"
        "from pathology_scaat.pipeline import explain, finetune, plan_run, predict, run, train\n"
        "from pathology_scaat.pipeline.preflight import check_device\n"
        "check_device('auto'), check_device('cpu')\n"
        "from pathology_scaat.cli import app, run_command\n"
        "for verb in ('explain', 'train', 'predict', 'evaluate', 'run'):\n"
        "    assert run_command(lambda: app([verb], standalone_mode=False)) == 2, verb\n"
        "words = ['run', '--set', 'tile.mp=1']\n"
        "assert run_command(lambda: app(words, standalone_mode=False)) == 2\n"
        "loaded = [m for m in ('torch', 'sklearn', 'tiatoolbox') if m in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CHOICES = [
    ("stitch", "--window", StitchConfig, "window"),
    ("stitch", "--weighting", StitchConfig, "weighting"),
    ("stitch", "--ngff", StitchConfig, "ngff"),
    ("export", "--colormap", ExportConfig, "colormap"),
    ("export", "--tile-shape", ExportConfig, "tile_shape"),
    ("export", "--drawn", ExportConfig, "drawn"),
    ("export", "--qupath-origin", ExportConfig, "qupath_origin"),
    ("run", "--audit", RunConfig, "audit"),
    ("train", "--labels", TrainConfig, "labels"),
]


@pytest.mark.parametrize(("verb", "option", "model", "setting"), CHOICES)
def test_help_names_every_choice(
    verb: str, option: str, model: type[BaseModel], setting: str
) -> None:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    found = next(one for one in command.params if option in one.opts)
    choices = get_args(model.model_fields[setting].annotation)
    assert choices
    assert [name for name in choices if name not in found.help] == []


def test_help_names_every_choice_of_a_registry() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for verb, option, registry in (
        ("train", "--method", METHODS),
        ("run", "--method", METHODS),
        ("explain", "--method", ATTRIBUTIONS),
        ("export", "--formats", EXPORTERS),
    ):
        found = next(one for one in commands[verb].params if option in one.opts)
        assert [name for name in registry.names if name not in found.help] == []


def test_the_list_of_commands_cuts_no_sentence() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pathology_scaat", "-h"], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "80"}, check=True,
    ).stdout  # fmt: skip
    commands = shown.partition("Commands:")[2].strip("\n").splitlines()
    assert len(commands) >= len(VERBS)
    assert all(line.startswith("  ") and not line.startswith("   ") for line in commands), shown
    assert "..." not in "".join(commands)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("scaat expo", "export"),
        ("scaat run --meth", "--method"),
        ("scaat train --method sca", "scaat"),
        ("scaat export --formats png,geoj", "png,geojson-plain"),
        ("scaat stitch --ngff ", "0.4"),
    ],
)
def test_the_shell_completes_commands_options_and_choices(words: str, wanted: str) -> None:
    code = "import sys; sys.argv[0] = 'scaat'; from pathology_scaat.cli import main; main()"
    expected = {
        "_SCAAT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **expected}
    )
    assert wanted in done.stdout.split("\n"), done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(scaat: Any, verb: str) -> None:
    done = scaat(verb, "--help")
    assert done.returncode == 0
    assert f"scaat {verb}" in done.stdout.replace("python -m pathology_scaat", "scaat")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tile"], "--out: is missing"),
        (["tile", "--out", "x"], "--manifest: is missing"),
        (["tile", "--manifest", "none.csv", "--out", "x"], "none.csv"),
        (["tile", "--mpp", "0.5", "--mag", "20", "--out", "x"], "says the same as --mpp"),
        (["tile", "--mag", "-3", "--out", "x"], "is not a magnification"),
        (["tile", "--mpp", "0", "--manifest", "m.csv", "--out", "x"], "'mpp'"),
        (["tile", "--overlap", "1.5", "--manifest", "m.csv", "--out", "x"], "overlap"),
        (["explain", "--out", "nowhere"], "run that stage first"),
        (["run"], "'manifest' is missing"),
        (["run", "none.yaml"], "none.yaml"),
        (["info", "nothing.svs"], "nothing.svs"),
        (["demo", "--nope"], "No such option"),
        (["bogus"], "No such command"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_two(
    scaat: Any, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = scaat(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "internal error" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("manifest: a.csv\nout: o\ntile: {mp: 0.5}\n", "'tile.mp': is not a setting"),
        ("manifest: a.csv\nout: o\nseed: -1\n", "'seed'"),
        ("- a\n- b\n", "holds no settings"),
        ("a: [1, 2\n", "is not valid YAML"),
        ("a: &x [1]\nb: [*x, *x]\n", "is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_a_wrong_pipeline_file_is_named(scaat: Any, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    done = scaat("run", "p.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr


def test_info_shows_geometry_and_no_identity(scaat: Any, cohort: Path) -> None:
    done = scaat("info", cohort.parent / "s0.tiff", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["size_px"] == {"width": 640, "height": 640}
    assert document["mpp"] == pytest.approx(0.5)
    assert document["suggested_mpp"] == 0.5
    assert len(document["levels"]) == 2
    assert str(cohort.parent) not in done.stdout
    assert "640 x 640 px" in scaat("info", cohort.parent / "s0.tiff").stdout


def test_doctor_finds_what_is_needed(scaat: Any) -> None:
    done = scaat("doctor", "--json")  # what is for people is on stderr then
    assert done.returncode == 0
    for name in ("torch", "openslide-python", "tiatoolbox", "free disk"):
        assert name in done.stderr
    assert "MISSING" not in done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert set(checks["torch"]) == {"name", "ok", "detail", "needed", "tried"}
    assert all(check["ok"] for check in checks.values() if check["needed"])
