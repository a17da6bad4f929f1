"""Slides that change in the middle of a batch."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

from forked_command import start_forked
from reliability_tools import draw_slide


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


DURING: dict[str, tuple[Callable[[Path], None], int]] = {
    "a file truncated between plan and read": (_truncate, 1),
    "a file deleted between plan and read, by another": (Path.unlink, 1),
    "a file truncated while it is read": (_truncate, 0),
}
"""What happens to the second (1) or the first slide (0) while the first is tiled."""


def during_message(case: tuple[Callable[[Path], None], int], folder: Path) -> tuple[str, int]:
    """The reason in slides.csv of a slide that is changed in the middle of a batch."""
    act, which = case
    slides = [folder / f"s{number}.tiff" for number in range(2)]
    for number, path in enumerate(slides):
        draw_slide(path, seed=number, side_px=1024 if number == 0 else 320)
    manifest = folder / "m.csv"
    manifest.write_text("slide_path,slide_id\ns0.tiff,a\ns1.tiff,b\n", encoding="utf-8")
    out = folder / "out"
    words = ("tile", "--manifest", str(manifest), "--out", str(out), "--patch-size", "32")
    words = (*words, "--mpp", "0.25", "--workers", "0", "--quiet")
    log = folder / "log.txt"
    run = start_forked("pathology_scaat", words, output=log, folder=folder, environment={})
    while run.poll() is None and not any(out.glob("patches/*.partial-*")):
        time.sleep(0.001)
    act(slides[which])
    code = run.wait(120)
    assert "Traceback" not in log.read_text(encoding="utf-8")
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        row = list(csv.DictReader(stream))[which]
    unreadable = row["n_unreadable"] not in ("", "0")
    facts = f"{row['n_patches']} patches" + (", some unreadable left out" if unreadable else "")
    return row["reason"] or f"({row['tile']}: {facts})", code
