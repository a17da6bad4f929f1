"""The main job on the real slides, at a reduced size, through the real command."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from forked_command import run_forked
from reliability_tools import FINISHED

from pathology_scaat.annotations import read_annotations
from pathology_scaat.evaluation.ground_truth import polygon_mask
from pathology_scaat.export.qupath.validator import validate_qupath_geojson
from pathology_scaat.stitching import SlideMap

pytestmark = [pytest.mark.real, pytest.mark.slow]

COHORT = (
    ("atlas_granular_cell_tumor_HE_20x.svs", "gct-20x", "A", True),
    ("atlas_granular_cell_tumor_HE_10x.tiff", "gct-10x", "A", False),
    ("atlas_gastric_metaplasia_HE_20x.tiff", "gastric", "B", False),
    ("CMU-1_crop_20x.svs", "cmu-crop", "C", False),
    ("CMU-1-Small-Region.svs", "cmu-small", "C", False),
)


@pytest.fixture(scope="module")
def out(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    lines = ["slide_path,slide_id,patient_id,annotation_path"]
    for name, slide_id, patient, annotated in COHORT:
        path = data_dir / "slides" / name
        lines.append(
            f"{path},{slide_id},{patient},{path.with_suffix('.geojson') if annotated else ''}"
        )
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    done = run_forked(
        ["run", "--manifest", folder / "cohort.csv", "--out", folder / "out", "--mpp", 4,
         "--patch-size", 64, "--overlap", 0.25, "--classes", "Normal,Tumor", "--epochs", 6,
         "--workers", 0, "--seed", 1],
    )  # fmt: skip
    assert done.returncode in FINISHED, done.stderr
    return folder / "out"


def test_every_slide_goes_through_every_stage(out: Path) -> None:
    with (out / "slides.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["slide_id"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {slide_id for _, slide_id, _, _ in COHORT}
    for row in rows.values():
        assert {row[stage] for stage in ("tile", "explain", "stitch", "export")} == {"done"}


def test_qupath_would_take_every_overlay(out: Path) -> None:
    for _, slide_id, _, _ in COHORT:
        frame = SlideMap(out / "maps" / f"{slide_id}.ome.zarr").frame_px
        validate_qupath_geojson(
            out / "overlays" / f"{slide_id}.geojson.gz", (frame.width, frame.height)
        )


@pytest.mark.parametrize("slide_id", ["gct-20x", "gct-10x"])
def test_the_map_follows_the_tumour(out: Path, data_dir: Path, slide_id: str) -> None:
    scan = {"gct-20x": "20x", "gct-10x": "10x"}[slide_id]
    polygons = read_annotations(
        data_dir / "slides" / f"atlas_granular_cell_tumor_HE_{scan}.geojson"
    )
    slide_map = SlideMap(out / "maps" / f"{slide_id}.ome.zarr")
    tumour = polygon_mask([p for p in polygons if p.class_name == "Tumor"], slide_map)
    normal = polygon_mask([p for p in polygons if p.class_name == "Normal"], slide_map)
    for channel in ("probability: Tumor", "saliency"):
        values = slide_map.read(channel)
        inside = np.nanmean(values[tumour])
        outside = np.nanmean(values[normal])
        assert inside > 1.5 * outside, channel
