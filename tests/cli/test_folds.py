"""Cross-validation through the real command: its exit code, and what else lies in the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drawn_slides import draw_slide, write_annotations

pytestmark = pytest.mark.slow

SMALL = ("--patch-size", "64", "--epochs", "1", "--workers", "0", "--folds", "3", "--json")


def make_labelled(folder: Path, top_and_bottom: bool, side_px: int = 352) -> Path:
    """Manifest of six slides with labels; the halves of a slide are its two classes."""
    middle = side_px // 2
    rows = ["slide_path,slide_id,patient_id,label,annotation_path"]

    def box(first: int, last: int) -> list[list[float]]:
        ring = [[0.0, first], [side_px, first], [side_px, last], [0.0, last], [0.0, first]]
        return ring if top_and_bottom else [[y, x] for x, y in ring]

    for number in range(6):
        draw_slide(folder / f"s{number}.tiff", seed=number, side_px=side_px)
        rings = {"Normal": box(0, middle), "Tumor": box(middle, side_px)}
        write_annotations(folder / f"s{number}.geojson", rings)
        label = ("Normal", "Tumor")[number % 2]
        rows.append(f"s{number}.tiff,slide-{number},patient-{number},{label},s{number}.geojson")
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def test_folds_none_of_which_has_learnt_end_with_code_four(scaat: Any, tmp_path: Path) -> None:
    """Top and bottom of these slides look alike: there is nothing to tell them apart by."""
    manifest = make_labelled(tmp_path, top_and_bottom=True)
    done = scaat("run", "--manifest", manifest, "--out", tmp_path / "out", *SMALL)
    assert done.returncode == 4, done.stderr
    found = json.loads(done.stdout)
    assert found["exit_code"] == 4
    assert found["nothing_learnt"].startswith("no model of any fold: its balanced accuracy")
    assert "HAS LEARNT NOTHING" in done.stderr
    assert "Traceback" not in done.stderr
