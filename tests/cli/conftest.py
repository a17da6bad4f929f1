"""A cohort small enough to run the real command on, again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_slides import make_cohort

Scaat = Callable[..., subprocess.CompletedProcess[str]]


def run_scaat(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The ``scaat`` command as a user's shell would start it."""
    return subprocess.run(
        [sys.executable, "-m", "pathology_scaat", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "200"},
        check=False,
    )


@pytest.fixture(scope="session")
def scaat() -> Scaat:
    return run_scaat


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of four slides of four patients, one of which is no slide at all."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "broken.svs").write_bytes(b"not a slide")
    return make_cohort(folder, 1280, "broken.svs,slide-broken,patient-9,,")
