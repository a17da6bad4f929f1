"""A run that is ended leaves nothing unfinished, of whatever size, and no lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

SCRIPT = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from pathology_scaat.artifacts.atomic import atomic_path
    from pathology_scaat.artifacts.status import StatusTable
    from pathology_scaat.cli import listen, run_command
    from pathology_scaat.execution import local_pool
    from pathology_scaat.execution.engine import EngineConfig
    from pathology_scaat.pipeline.reporting import Silent
    from pathology_scaat.pipeline.stage import run_stage

    def write_much(path):
        with atomic_path(path) as partial:
            partial.mkdir()
            for number in range(10_000):
                with (partial / str(number)).open("wb") as stream:
                    stream.write(bytes(1 << 20))
                time.sleep(0.01)

    if __name__ == "__main__":
        out, workers = Path(sys.argv[1]), int(sys.argv[2])
        local_pool.ENDING_S = float(sys.argv[3])
        listen()
        paths = [out / "patches" / f"{n}.zarr" for n in range(3)]
        sys.exit(run_command(lambda: run_stage(
            "tile", ["0", "1", "2"], write_much, paths, paths, EngineConfig(workers=workers),
            StatusTable(out), Silent(),
        )))
""")


@pytest.mark.parametrize(
    ("workers", "ending_s", "signals"),
    [(0, 5.0, 1), (0, 5.0, 3), (2, 5.0, 1), (2, 0.0, 1)],
    ids=["inline", "asked three times", "workers", "workers killed while they clean up"],
)
def test_sigterm_while_writing_leaves_nothing(
    tmp_path: Path, workers: int, ending_s: float, signals: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    out = tmp_path / "out"
    words = [sys.executable, str(script), str(out), str(workers), str(ending_s)]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while time.monotonic() < end and len(list(out.glob("patches/*.partial-*/5*"))) < 1:
        time.sleep(0.02)
    for _ in range(signals):
        run.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    _, words_said = run.communicate(timeout=60)
    assert run.returncode == 143, words_said
    assert "Traceback" not in words_said
    assert list(out.glob("patches/*.partial-*")) == []
    assert list(out.glob("patches/.*.lease")) == []
