"""The demo cohort with a label a slide: half positive, nothing told by file or scanner."""

from __future__ import annotations

import json
from pathlib import Path

from pathology_scaat.annotations import read_annotations
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.demo.slide_labels import _plans, make_labelled_cohort
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.evaluate import evaluate
from pathology_scaat.pipeline.report import report
from pathology_scaat.pipeline.run import run
from pathology_scaat.review.model_card import model_card


def test_a_label_a_slide_and_no_annotation(tmp_path: Path) -> None:
    counts = {"train": 2, "val": 1, "test": 1}
    cohort = make_labelled_cohort(tmp_path, 3, counts, 1024, workers=0)
    rows = read_manifest(cohort.manifest_path).rows
    assert [row.label for row in rows] == ["Normal", "Tumor", "Normal", "Normal"]
    assert [row.split for row in rows] == ["train", "train", "val", "test"]
    assert all(row.annotation_path is None for row in rows)
    assert len({row.patient_id for row in rows}) == 4
    nests = [len(read_annotations(slide.truth_path)) for slide in cohort.slides]
    assert nests[1] > 0
    assert nests[0] == nests[2] == nests[3] == 0
    again = make_labelled_cohort(tmp_path / "b", 3, counts, 1024, workers=0)
    for one, other in zip(cohort.slides, again.slides, strict=True):
        assert one.slide_path.read_bytes() == other.slide_path.read_bytes()


def test_scanner_and_label_are_drawn_apart() -> None:
    plans = _plans(0, {"train": 600})
    positive = [plan for plan in plans if plan.tumor_share]
    assert len(positive) == 300
    share = sum(plan.aperio for plan in positive) / 300 - sum(plan.aperio for plan in plans) / 600
    assert abs(share) < 0.05


def test_figures_and_models_of_painted_slides_say_so_first(tmp_path: Path) -> None:
    cohort = make_labelled_cohort(tmp_path, 3, {"train": 4, "val": 2, "test": 2}, 768, workers=0)
    out = tmp_path / "out"
    settings = {
        "tile": {"mpp": 1.0, "patch_size_px": 64, "overlap": "0"},
        "train": {
            "epochs": 1, "labels": "slide", "backbone_options": {"widths": (8, 16)},
            "bag": {"patches_per_bag": 8, "draws_per_epoch": 1, "attention_width": 8,
                    "attention_steps": 5},
        },
        "export": {"formats": ["geojson"]},
        "engine": {"workers": 0},
    }  # fmt: skip
    run(load_run_config(None, {**settings, "manifest": cohort.manifest_path, "out": out}))
    found = json.loads((out / "performance.json").read_text())
    first = found["read_first"][0]
    assert first.startswith("PAINTED SLIDES: All slides that were measured were painted")
    page = (out / "performance.md").read_text()
    assert page.split("\n")[2] == f"> **{first}**"
    assert "PAINTED SLIDES" in (out / "performance_slides.svg").read_text()
    from_painted = "The model learnt from painted slides (scaat demo), not from patients' tissue."
    assert f"- {from_painted}" in page
    assert from_painted in json.loads((out / "notes.json").read_text())["train"]
    report(out)
    card = (out / "report" / "model_card.md").read_text()
    assert f"> **{from_painted}**" in card
    assert "PAINTED SLIDES" in card.split("---")[1]  # what Hugging Face reads
    evaluate(out, manifest=cohort.manifest_path, device="cpu")
    assert from_painted in (out / "evaluation" / "trust_card.md").read_text()
    assert first in model_card(out)["warnings"]
    assert "are painted" in (out / "README.txt").read_text()
