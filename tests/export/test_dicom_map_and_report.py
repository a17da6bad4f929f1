"""Parametric map and structured report: values to the bit, in place, with what is known told."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_stores import darkness_store

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.errors import ExportError
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.slide_findings import ReaderVerdict, SlideFindings, SlideScore
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.patches.schema import ATTRIBUTES_KEY
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide

hd = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::UserWarning")]

CONFIG: dict[str, Any] = {
    "identified": True,
    "drawn": "saliency",
    "region_threshold": 0.2,
    "region_min_probability": 0,
    "region_mpp": 2.0,
    "min_region_um2": 100,
}
SCORE = SlideScore(
    ("d" * 64,), (("normal", 0.1 + 0.2), ("tumour", 0.7 - 1e-9)), 0.45, "tumour", "test",
    "mean of the top patches", "not calibrated: no validation slide has a label",
)  # fmt: skip


@pytest.fixture(scope="module")
def stitched(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("dicom")
    slide = data_dir / "formats" / "dicom_wsi"
    tile_slide(TileJob(slide, "D", folder / "p.zarr", TileConfig(mpp=2.0, patch_size_px=64)))
    darkness_store(folder / "p.zarr", folder / "s.zarr", 4)
    stitch_slide(folder / "s.zarr", folder / "m.ome.zarr", StitchConfig(weighting="none"))
    return folder, slide


def exported(
    stitched: tuple[Path, Path], to: Path, *formats: str, findings: SlideFindings | None = None
) -> Any:
    folder, slide = stitched
    return export_slide(
        folder / "m.ome.zarr", folder / "s.zarr", to, ExportConfig(formats=formats, **CONFIG),
        slide_path=slide, findings=findings,
    )  # fmt: skip


def slide_header(folder: Path) -> Any:
    """The largest level of a DICOM slide."""
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in folder.iterdir()]
    volumes = [h for h in headers if "VOLUME" in h.ImageType]
    return max(volumes, key=lambda h: h.TotalPixelMatrixColumns)


def origin_of(header: Any) -> tuple[float, float]:
    item = header.TotalPixelMatrixOriginSequence[0]
    return float(item.XOffsetInSlideCoordinateSystem), float(item.YOffsetInSlideCoordinateSystem)


def _texts(dataset: Any) -> list[str]:
    found = []
    for item in dataset.get("ContentSequence", ()):
        if item.ValueType == "TEXT":
            found.append(item.TextValue)
        found += _texts(item)
    return found


def test_values_of_every_channel_come_back_to_the_bit(
    stitched: tuple[Path, Path], tmp_path: Path
) -> None:
    digests = []
    for name in ("a", "b"):
        assert exported(stitched, tmp_path / name, "dicom-map").files == ("D.pm.dcm",)
        digests.append(file_sha256(tmp_path / name / "D.pm.dcm"))
    assert digests[0] == digests[1]
    folder, slide = stitched
    slide_map = SlideMap(folder / "m.ome.zarr")
    image = pydicom.dcmread(tmp_path / "a" / "D.pm.dcm")
    labels = []
    for item in image.PerFrameFunctionalGroupsSequence:
        mapping = item.RealWorldValueMappingSequence[0]
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
        if mapping.LUTExplanation not in labels:
            labels.append(mapping.LUTExplanation)
    assert labels == list(slide_map.channel_names)
    size = slide_map.size_px()
    frames = np.frombuffer(image.FloatPixelData, "<f4").reshape(-1, image.Rows, image.Columns)
    for channel in slide_map.channel_names:
        whole = np.full((size.height + image.Rows, size.width + image.Columns), -7, "<f4")
        for frame, item in zip(frames, image.PerFrameFunctionalGroupsSequence, strict=True):
            if item.RealWorldValueMappingSequence[0].LUTExplanation != channel:
                continue
            plane = item.PlanePositionSlideSequence[0]
            x = int(plane.ColumnPositionInTotalImagePixelMatrix) - 1
            y = int(plane.RowPositionInTotalImagePixelMatrix) - 1
            whole[y : y + image.Rows, x : x + image.Columns] = frame
        wanted = slide_map.read(channel)
        assert np.array_equal(
            whole[: size.height, : size.width].view(np.uint32), wanted.view(np.uint32)
        )
        assert np.isnan(wanted).any() or channel == "patches"
    assert np.isnan(image.FloatPixelPaddingValue)
    # where it lies: spacing, and the origin of the slide's own frame of reference
    header = slide_header(slide)
    assert image.FrameOfReferenceUID == header.FrameOfReferenceUID
    assert origin_of(image) == pytest.approx(origin_of(header), abs=1e-9)
    spacing = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert float(spacing[0]) * 1000 == pytest.approx(slide_map.mpp)
    assert "quality not known" in image.ImageComments


def test_a_given_pixel_size_moves_nothing_in_the_frame_of_the_slide(
    tmp_path: Path, data_dir: Path
) -> None:
    """A map of 0.25 µm/px by hand over a slide of 0.499: it still covers the whole slide."""
    slide = data_dir / "formats" / "dicom_wsi"
    config = TileConfig(mpp=2.0, patch_size_px=64)
    tile_slide(TileJob(slide, "D", tmp_path / "p.zarr", config, mpp=0.25))
    darkness_store(tmp_path / "p.zarr", tmp_path / "s.zarr", 4)
    stitch_slide(tmp_path / "s.zarr", tmp_path / "m.ome.zarr", StitchConfig(weighting="none"))
    exported((tmp_path, slide), tmp_path, "dicom-map", "geojson-plain", "dicom-sr")
    header, slide_map = slide_header(slide), SlideMap(tmp_path / "m.ome.zarr")
    image = pydicom.dcmread(tmp_path / "D.pm.dcm")
    measures = [d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
                for d in (image, header)]  # fmt: skip
    assert float(measures[0][0]) == pytest.approx(float(measures[1][0]) * slide_map.scale_px)
    assert float(measures[0][1]) == pytest.approx(float(measures[1][1]) * slide_map.scale_px)
    assert "0.25 um/px of the manifest, not of the file" in image.ImageComments
    features = json.loads((tmp_path / "D.geojson").read_text())["features"]
    rings = [f["geometry"]["coordinates"][0] for f in features
             if f["properties"]["objectType"] == "annotation"]  # fmt: skip
    report = hd.sr.srread(tmp_path / "D.sr.dcm")
    groups = report.content.get_planar_roi_measurement_groups()
    reach_mm = max(np.ptp(group.roi.value[:, :2], axis=0).max() for group in groups)
    reach_px = max(np.ptp(np.array(ring), axis=0).max() for ring in rings)
    assert reach_mm == pytest.approx(reach_px * float(measures[1][0]), rel=1e-3)


def test_regions_of_the_report_lie_where_the_geojson_has_them(
    stitched: tuple[Path, Path], tmp_path: Path
) -> None:
    exported(stitched, tmp_path, "geojson-plain", "dicom-sr")
    features = json.loads((tmp_path / "D.geojson").read_text())["features"]
    drawn = {f["id"]: f for f in features if f["properties"]["objectType"] == "annotation"}
    assert len(drawn) > 3
    header = slide_header(stitched[1])
    report = hd.sr.srread(tmp_path / "D.sr.dcm")
    groups = report.content.get_planar_roi_measurement_groups()
    mpp = SlideMap(stitched[0] / "m.ome.zarr").meta.slide.mpp
    x0, y0 = origin_of(header)
    across, down = np.array(header.ImageOrientationSlide, float).reshape(2, 3)
    assert {g.tracking_identifier for g in groups} == set(drawn)
    for group in groups:
        feature = drawn[group.tracking_identifier]
        assert group.roi.frame_of_reference_uid == header.FrameOfReferenceUID
        mm = group.roi.value - (x0, y0, 0)
        px = np.stack([mm @ across, mm @ down], axis=1) * 1000 / mpp
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert np.abs(px - ring).max() < 0.05
        area = group.get_measurements(name=pydicom.sr.codedict.codes.SCT.Area)[0]
        in_qupath = feature["properties"]["measurements"]["SCAAT: Area um^2"]
        assert area.value == pytest.approx(in_qupath, rel=1e-4)
        holes = len(feature["geometry"]["coordinates"]) - 1
        assert any(f"{holes} hole(s)" in t for t in _texts(group[0])) == bool(holes)


def test_the_report_shows_score_verdicts_and_what_the_model_is(
    stitched: tuple[Path, Path], tmp_path: Path
) -> None:
    exported(stitched, tmp_path / "first", "geojson-plain")
    features = json.loads((tmp_path / "first" / "D.geojson").read_text())["features"]
    marked = next(f["id"] for f in features if f["properties"]["objectType"] == "annotation")
    verdicts = (
        ReaderVerdict(1, marked, "tumour", "yes", False),
        ReaderVerdict(2, marked, "tumour", "no", True),
        ReaderVerdict(1, "", "tumour", "unsure", False),
        ReaderVerdict(1, "a region of another map", "tumour", "yes", False),
    )
    found = SlideFindings(SCORE, verdicts)
    result = exported(stitched, tmp_path, "dicom-sr", findings=found)
    assert any("1 verdict(s) are about regions" in note for note in result.notes)
    report = hd.sr.srread(tmp_path / "D.sr.dcm")
    (slide,) = report.content.get_image_measurement_groups()
    said = {m.name.meaning: m.value for m in slide.get_measurements()}
    assert said["Score: tumour"] == 0.7 - 1e-9
    assert said["Threshold of the positive class"] == 0.45
    (evaluation,) = slide.get_qualitative_evaluations()
    assert evaluation.name.meaning == "Verdict of reader 1: tumour"
    assert evaluation.value.meaning == "Indeterminate"
    groups = report.content.get_planar_roi_measurement_groups()
    (judged,) = (g for g in groups if g.tracking_identifier == marked)
    answers = {e.name.meaning: e.value.meaning for e in judged.get_qualitative_evaluations()}
    assert answers == {
        "Verdict of reader 1: tumour": "Present",
        "Blind verdict of reader 2: tumour": "Absent",
    }
    text = "\n".join(_texts(report))
    assert "model fingerprint: " + "d" * 64 in text
    assert "not calibrated" in text
    assert "quality not known" in text
    assert "not known whether the model was trained on it" in text
    # other verdicts: made anew; the same: left as it is; another model's score: not told
    assert exported(stitched, tmp_path, "dicom-sr", findings=found).skipped
    assert not exported(stitched, tmp_path, "dicom-sr").skipped
    assert "slide score: none that is known" in "\n".join(
        _texts(pydicom.dcmread(tmp_path / "D.sr.dcm"))
    )


def test_a_model_that_has_learnt_nothing_is_reported_in_every_object(
    stitched: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, slide = stitched
    copied = tmp_path / "m.ome.zarr"
    shutil.copytree(folder / "m.ome.zarr", copied)
    path = copied / "zarr.json"
    value = json.loads(path.read_text())
    value["attributes"][ATTRIBUTES_KEY]["model"] = {
        "held_out": {
            "source": "test slides", "n_patches": 100, "n_slides": 4, "n_patients": 4,
            "unit": "slide", "n_units": 4, "class_counts": {"normal": 50, "tumour": 50},
            "auc": {"value": 0.5}, "balanced_accuracy": {"value": 0.5}, "chance": 0.5,
            "probability_span": 0.5,
        },
    }  # fmt: skip
    path.write_text(json.dumps(value))
    config = ExportConfig(formats=("dicom", "dicom-map", "dicom-sr"), identified=True)
    export_slide(copied, folder / "s.zarr", tmp_path / "o", config, slide_path=slide)
    for kind in ("ann", "seg", "pm"):
        dataset = pydicom.dcmread(tmp_path / "o" / f"D.{kind}.dcm")
        assert dataset.ContentDescription.startswith("THIS MODEL HAS LEARNT NOTHING"), kind
    report = hd.sr.srread(tmp_path / "o" / "D.sr.dcm")
    assert not report.content.get_planar_roi_measurement_groups()
    assert any("THIS MODEL HAS LEARNT NOTHING" in text for text in _texts(report))


def test_no_identity_is_copied_unasked(stitched: tuple[Path, Path], tmp_path: Path) -> None:
    folder, slide = stitched
    for kind in ("dicom-map", "dicom-sr"):
        with pytest.raises(ExportError, match="its patient's identity was removed"):
            export_slide(
                folder / "m.ome.zarr", folder / "s.zarr", tmp_path / "o",
                ExportConfig(formats=(kind,)), slide_path=slide,
            )  # fmt: skip
        with pytest.raises(ExportError, match="needs the DICOM slide"):
            export_slide(
                folder / "m.ome.zarr", folder / "s.zarr", tmp_path / "o",
                ExportConfig(formats=(kind,), identified=True),
            )  # fmt: skip
    assert not list((tmp_path / "o").glob("*.dcm"))


@pytest.mark.parametrize("kind", ["pm", "sr"])
def test_dciodvfy_finds_no_error(stitched: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    check = shutil.which("dciodvfy")
    if check is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    found = SlideFindings(SCORE, (ReaderVerdict(1, "", "tumour", "yes", False),))
    exported(stitched, tmp_path, "dicom-map" if kind == "pm" else "dicom-sr", findings=found)
    path = tmp_path / f"D.{kind}.dcm"
    done = subprocess.run([check, "-new", str(path)], capture_output=True, text=True, timeout=240)
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []
