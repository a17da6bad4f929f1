"""The Snakemake example runs, where Snakemake is: named by SNAKEMAKE, or on the path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from drawn_slides import make_cohort

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
SNAKEMAKE = os.environ.get("SNAKEMAKE") or shutil.which("snakemake")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(SNAKEMAKE is None, reason="snakemake is not installed: nox -s workflows")
def test_the_snakemake_example_runs(tmp_path: Path) -> None:
    make_cohort(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    start = tools / "scaat"
    start.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pathology_scaat "$@"\n')
    start.chmod(0o755)
    done = subprocess.run(
        [
            str(SNAKEMAKE), "-s", str(PIPELINES / "Snakefile"), "--cores", "2", "--config",
            "manifest=cohort.csv", "out=out", "tile=--mpp 1 --patch-size 32 --overlap 0",
            "train=--epochs 3", "formats=geojson",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out" / "overlays").glob("*.geojson.gz"))) == 3
    marks = {p.name for p in (tmp_path / "out.stages").iterdir()}
    assert {
        "tiled",
        "trained",
        "explained",
        "predicted",
        "stitched",
        "exported",
        "verified",
    } <= marks
