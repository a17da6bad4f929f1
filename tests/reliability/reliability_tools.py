"""What the reliability tests share: slides, the real command, digests of folders."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile


def _data() -> Path | None:
    named = os.environ.get("SCAAT_DATA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return next((p for p in (Path(named) if named else beside, beside) if p.is_dir()), None)


DATA = _data()


def draw_slide(path: Path, seed: int, side_px: int = 768, **tags: object) -> None:
    """A pyramidal TIFF at 0.5 µm/px: pink tissue on glass, dark dots in its right half."""
    rng = np.random.default_rng(seed)
    image = np.full((side_px, side_px, 3), 244, dtype=np.uint8)
    edge, middle = side_px // 10, side_px // 2
    image[edge:-edge, edge:-edge] = (222, 160, 196)
    n_dots = side_px * side_px // 900
    for x, y in zip(
        rng.integers(middle, side_px - edge - 8, n_dots),
        rng.integers(edge, side_px - edge - 8, n_dots),
        strict=True,
    ):
        image[y : y + 8, x : x + 8] = (92, 60, 140)
    noise = rng.integers(-6, 7, image.shape, dtype=np.int16)
    image = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for level, step in enumerate((1, 4)):
            writer.write(
                image[::step, ::step],
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                resolution=(20_000 / step, 20_000 / step),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                **(tags if not level else {}),  # type: ignore[arg-type]
            )


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
        old = stderr.file, stdout.file
        stderr.file = stdout.file = shown
        try:
            with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
                code = run_command(lambda: app(words, standalone_mode=False))
        finally:
            stderr.file, stdout.file = old
        return subprocess.CompletedProcess(words, code, "", shown.getvalue())

    def limit() -> None:
        if memory_bytes:
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


VOLATILE = ("logs/", "model.training/", ".leases.lock", ".slides.csv.lock")


def digest(out: Path) -> dict[str, str]:
    """SHA-256 of every file of an output folder by its path, without locks, logs, checkpoints."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not any(mark in name for mark in VOLATILE):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
