"""``run.json`` is enough to run a run again: the same settings, and the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reliability_tools import FINISHED, digest, make_cohort, run_scaat

SETTINGS = """
seed: 3
device: cpu
tile: {mpp: 1.0, patch_size_px: 32, overlap: "0.25", min_tissue: 0.4}
train: {epochs: 1, batch_size: 16, method: plain}
stitch: {weighting: none}
export: {formats: [geojson, csv]}
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; beside it stand its manifest, settings and salt."""
    folder = tmp_path_factory.mktemp("first")
    make_cohort(folder)
    (folder / "p.yaml").write_text(SETTINGS, encoding="utf-8")
    done = run_scaat(
        "run", folder / "p.yaml", "--manifest", folder / "cohort.csv", "--out", folder / "out",
        "--pseudonymize", folder / "salt", "--workers", 0, "--quiet", in_process=True,
    )  # fmt: skip
    assert done.returncode in FINISHED, done.stderr
    return folder / "out"


@pytest.mark.slow
def test_from_run_json_alone_the_same_bytes(first: Path, tmp_path: Path) -> None:
    given = first.parent
    record = tmp_path / "kept.json"
    record.write_bytes((first / "run.json").read_bytes())
    out = tmp_path / "out"
    done = run_scaat(
        "run", record, "--manifest", given / "cohort.csv", "--out", out,
        "--pseudonymize", given / "salt", "--workers", 2, "--quiet", in_process=True,
    )  # fmt: skip
    assert done.returncode in FINISHED, done.stderr
    assert digest(out) == digest(first)


def test_a_path_that_the_record_does_not_keep_is_asked_for(first: Path, tmp_path: Path) -> None:
    args = ["run", first / "run.json", "--out", tmp_path / "out", "--quiet"]
    done = run_scaat(*args, in_process=True)
    assert done.returncode == 2
    assert "give --manifest" in done.stderr
    done = run_scaat(*args, "--manifest", first.parent / "cohort.csv", in_process=True)
    assert "'pseudonymize' was a path" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_altered_record_is_refused(first: Path, tmp_path: Path) -> None:
    record = json.loads((first / "run.json").read_text(encoding="utf-8"))
    record["config"]["seed"] = 4
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    done = run_scaat("run", path, "--out", tmp_path / "out", in_process=True)
    assert done.returncode == 2
    assert "was altered after the run" in done.stderr
