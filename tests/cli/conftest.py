"""A cohort small enough to run the real command on, again and again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_slides import make_cohort
from forked_command import run_forked

Scaat = Callable[..., subprocess.CompletedProcess[str]]


def run_scaat(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The ``scaat`` command as a user's shell would start it."""
    return run_forked(arguments, folder=cwd)


@pytest.fixture(scope="session")
def scaat() -> Scaat:
    return run_scaat


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of four slides of four patients, one of which is no slide at all."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "broken.svs").write_bytes(b"not a slide")
    return make_cohort(folder, 640, "broken.svs,slide-broken,patient-9,,")
