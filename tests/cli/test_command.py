"""The command itself: quick, offline, one sentence for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

VERBS = (
    "info", "tile", "train", "explain", "stitch", "export", "run", "demo", "doctor", "verify",
    "evaluate", "compare", "import-annotations", "predict", "make-manifest", "finetune",
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
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb in done.stdout
    assert min(seconds) < 1.0


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


def test_info_tells_geometry_and_no_identity(scaat: Any, cohort: Path) -> None:
    done = scaat("info", cohort.parent / "s0.tiff", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["size_px"] == {"width": 1280, "height": 1280}
    assert told["mpp"] == pytest.approx(0.5)
    assert told["suggested_mpp"] == 0.5
    assert len(told["levels"]) == 2
    assert str(cohort.parent) not in done.stdout
    assert "1,280 x 1,280 px" in scaat("info", cohort.parent / "s0.tiff").stdout


def test_doctor_finds_what_is_needed(scaat: Any) -> None:
    done = scaat("doctor")
    assert done.returncode == 0
    for name in ("torch", "openslide-python", "tiatoolbox", "free disk"):
        assert name in done.stdout
    assert "MISSING" not in done.stdout
