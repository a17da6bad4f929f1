"""What the reliability tests share: slides, the real command, digests of folders."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

from drawn_slides import draw_slide, make_cohort
from forked_command import run_forked

__all__ = [
    "DATA",
    "FINISHED",
    "VOLATILE",
    "digest",
    "draw_slide",
    "make_cohort",
    "read_status",
    "run_scaat",
    "tile_states",
]


def _data() -> Path | None:
    named = os.environ.get("SCAAT_DATA")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return next((p for p in (Path(named) if named else beside, beside) if p.is_dir()), None)


DATA = _data()

FINISHED = (0, 4)
"""Exit codes of a run in which all was done: 4 where the model has learnt nothing, as one does
in a single epoch on a few patches."""


def read_status(out: Path) -> list[dict[str, str]]:
    """The rows of slides.csv."""
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def tile_states(out: Path) -> dict[str, str]:
    """What slides.csv says of tiling, by slide id."""
    return {row["slide_id"]: row["tile"] for row in read_status(out)}


def run_scaat(
    *arguments: object,
    memory_bytes: int | None = None,
    in_process: bool = False,
    timeout_s: float = 240,
) -> subprocess.CompletedProcess[str]:
    """The real command; in this process where its start would cost more than its work."""
    words = [str(a) for a in arguments]
    if in_process:
        from pathology_scaat.cli import app, run_command
        from pathology_scaat.cli.common import stderr, stdout

        shown = io.StringIO()
        # ``file`` gives the stream of the moment, which must not be kept: pytest changes it.
        old = stderr._file, stdout._file
        stderr.file = stdout.file = shown
        try:
            with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
                code = run_command(lambda: app(words, standalone_mode=False))
        finally:
            stderr._file, stdout._file = old
        return subprocess.CompletedProcess(words, code, "", shown.getvalue())

    if memory_bytes is None:
        return run_forked(words, timeout_s=timeout_s)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

    return subprocess.run(
        [sys.executable, "-m", "pathology_scaat", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        check=False,
        preexec_fn=limit,
    )


VOLATILE = ("logs/", "run.log", "model.training/", ".leases.lock", ".slides.csv.lock")


def digest(out: Path) -> dict[str, str]:
    """SHA-256 of every file of an output folder by its path, without locks, logs, checkpoints."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not any(mark in name for mark in VOLATILE):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
