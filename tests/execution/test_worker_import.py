"""A script that is not under ``if __name__ == "__main__":`` is told so, once, and works once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pathology_scaat.system.worker_import import imported_again

SCRIPTS = {
    "jobs": """
from os.path import basename
from pathology_scaat.execution.engine import EngineConfig, map_jobs
print(*map_jobs(basename, ["a/b", "a/c"], EngineConfig(workers=2)))
""",
    "training": """
from pathlib import Path
from pathology_scaat.training.train import _with_processes
from types import SimpleNamespace
_with_processes(SimpleNamespace(config=SimpleNamespace(devices=2), device="cpu"), None)
""",
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPTS[kind])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert str(imported_again()) in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1
    assert "freeze_support" not in done.stderr
