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


def test_folds_in_the_folder_of_a_single_model_are_not_taken_for_its(
    scaat: Any, tmp_path: Path
) -> None:
    """The model of the run before stays in the folder; nothing that is shown is of it."""
    manifest, out = make_labelled(tmp_path, top_and_bottom=False), tmp_path / "out"
    options = ("--manifest", manifest, "--out", out)
    table = manifest.read_text(encoding="utf-8")
    (tmp_path / "gone.svs").write_bytes(b"not a slide")
    manifest.write_text(f"{table}gone.svs,gone,patient-9,Normal,\n", encoding="utf-8")
    single = ("--patch-size", "64", "--epochs", "1", "--workers", "0", "--labels", "patch")
    assert scaat("run", *options, *single).returncode == 3
    manifest.write_text(table, encoding="utf-8")
    done = scaat("run", *options, *SMALL, "--labels", "patch")
    assert done.returncode == 0, done.stderr
    assert (out / "model" / "config.json").is_file()
    page = (out / "overlays" / "index.html").read_text(encoding="utf-8")
    assert "none by this model" not in page  # each slide has the prediction of its fold's model
    assert "6 slides." in page  # the one that is gone did not fail in this run
    assert "gone" not in page
    checked = scaat("verify", "--out", out)
    assert checked.returncode == 0, checked.stdout
    for number in range(3):
        assert f"folds/{number}/model: " in checked.stdout
    assert "slides.csv: 6 slides, 0 failed, 1 of earlier runs" in checked.stdout
    assert scaat("report", out).returncode == 0
    card = (out / "report" / "model_card.md").read_text(encoding="utf-8")
    assert "folds/0/model/config.json" in card
    said = (out / "report" / "checklist.md").read_text(encoding="utf-8")
    assert "the model of all slides in the folder is of another run" in said
    # damage to the model of a fold is found
    weights = out / "folds" / "1" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    assert "FAULT folds/1/model" in scaat("verify", "--out", out).stdout
