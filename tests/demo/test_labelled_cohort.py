"""The demo cohort with a label a slide: half positive, nothing told by file or scanner."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.annotations import read_annotations
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.demo.slide_labels import _plans, make_labelled_cohort


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
