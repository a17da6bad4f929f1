"""Exporting a slide: what is written, what is recorded, and that it is the same every time."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import json
import sqlite3
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from map_stores import make_saliency_store
from PIL import Image

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.errors import ExportError, StoreError
from pathology_scaat.export import ExportConfig, export_slide, validate_qupath_geojson
from pathology_scaat.export.qupath.palette import qupath_class, qupath_classes
from pathology_scaat.export.report.cohort import write_cohort
from pathology_scaat.export.report.contact_sheet import columns_for, write_contact_sheet
from pathology_scaat.export.report.page import write_page
from pathology_scaat.export.report.records import ExportedCohort, read_cohort
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide

EVERYTHING = (
    "geojson", "geojson-plain", "ome-tiff", "rgb-tiff", "tile-png", "png", "figure", "csv",
    "annotation-store",
)  # fmt: skip
GRID = PatchGrid(1000.0, 2000.0, 0.5 / 0.2423, 64, 32, 12, 9)
BOUNDS = BoxPx(1000, 2000, 880, 680)


def made(folder: Path, slide_id: str = "S1", seed: int = 0, **options: Any) -> tuple[Path, Path]:
    store = make_saliency_store(
        folder / f"{slide_id}.zarr", GRID, bounds=BOUNDS, size=SizePx(9000, 9000), mpp=0.2423,
        slide_id=slide_id, seed=seed, **options,
    )  # fmt: skip
    stitch_slide(store, folder / f"{slide_id}.ome.zarr")
    return folder / f"{slide_id}.ome.zarr", store


def test_identical_inputs_give_identical_bytes(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    config = ExportConfig(formats=EVERYTHING, region_quantile=0.6, min_region_um2=0)
    digests = []
    for name in ("one", "two"):
        result = export_slide(slide_map, store, tmp_path / name, config)
        digests.append({f.name: file_sha256(f) for f in sorted((tmp_path / name).iterdir())})
        assert set(result.files) | {"S1.json"} == set(digests[-1])
        time.sleep(1.1)  # a second later: a time stamp would show
    assert digests[0] == digests[1]
    assert len(digests[0]) == len(EVERYTHING) + 2  # the record, and the picture of probability


def test_the_record_shows_frame_offset_and_hashes(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    result = export_slide(slide_map, store, tmp_path / "o", ExportConfig(formats=EVERYTHING))
    record = json.loads((tmp_path / "o" / "S1.json").read_text())
    assert record["coordinates"]["offset_px"] == [1000, 2000]
    assert record["coordinates"]["frame_size_px"] == [880, 680]
    assert record["coordinates"]["slide_size_px"] == [9000, 9000]
    assert record["fingerprint"] == result.fingerprint
    for name, entry in record["files"].items():
        assert file_sha256(tmp_path / "o" / name) == entry["sha256"]
    assert record["files"]["S1.csv"]["frame"]["offset_x_px"] == 0
    assert record["files"]["S1.ome.tiff"]["frame"]["width_px"] == 880
    assert str(tmp_path) not in json.dumps(record)


def test_full_origin_subtracts_nothing(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    boxes = {}
    for origin, size in (("bounds", (880, 680)), ("full", (9000, 9000))):
        config = ExportConfig(formats=("geojson-plain",), qupath_origin=origin, max_regions=0)
        export_slide(slide_map, store, tmp_path / origin, config)
        path = tmp_path / origin / "S1.geojson"
        validate_qupath_geojson(path, size)
        features = json.loads(path.read_text())["features"]
        boxes[origin] = np.array([f["geometry"]["coordinates"][0] for f in features])
    assert (boxes["full"] - boxes["bounds"] == [1000, 2000]).all()


def test_exporting_again_does_nothing_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide_map, store = made(tmp_path)
    config = ExportConfig(formats=("geojson", "csv"))
    out = tmp_path / "o"
    assert not export_slide(slide_map, store, out, config).skipped
    again = export_slide(slide_map, store, out, config)
    assert again.skipped
    assert again.n_tiles == 108
    (out / "S1.csv").write_text("cut")
    assert not export_slide(slide_map, store, out, config).skipped
    fewer = ExportConfig(formats=("csv",))
    assert export_slide(slide_map, store, out, fewer).skipped  # it is there already
    monkeypatch.setattr("pathology_scaat.export.export.RULES", -1)  # files by other rules
    assert not export_slide(slide_map, store, out, fewer).skipped
    assert not export_slide(slide_map, store, out, fewer, overwrite=True).skipped
    assert (out / "S1.geojson.gz").exists()


def test_caps_are_reported(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    config = ExportConfig(
        formats=("geojson-plain",), max_tiles=10, max_regions=2, region_mpp=0.1,
        region_threshold=0.01, min_region_um2=0, region_min_probability=0.8,
    )  # fmt: skip
    result = export_slide(slide_map, store, tmp_path / "o", config)
    assert (result.n_tiles, result.n_regions) == (10, 2)
    assert any("98 of 108 tiles left out" in note for note in result.notes)
    assert any("regions of high evidence left out" in note for note in result.notes)
    features = json.loads((tmp_path / "o" / "S1.geojson").read_text())["features"]
    tiles = [f["properties"] for f in features if f["properties"]["objectType"] == "tile"]
    kept = min(t["measurements"]["SCAAT: Tumor probability"] for t in tiles)
    everything = SlideMap(slide_map).read("probability: tumour")
    assert kept > np.nanmedian(everything)


def test_tiles_and_regions_are_as_qupath_wants_them(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    config = ExportConfig(formats=("geojson",), region_quantile=0.5, min_region_um2=0)
    export_slide(slide_map, store, tmp_path / "o", config)
    text = gzip.decompress((tmp_path / "o" / "S1.geojson.gz").read_bytes())
    features = json.loads(text)["features"]
    tiles = [f for f in features if f["properties"]["objectType"] == "tile"]
    regions = [f for f in features if f["properties"]["objectType"] == "annotation"]
    names = set(tiles[0]["properties"]["measurements"])
    assert names == {
        "SCAAT: normal probability", "SCAAT: Tumor probability", "SCAAT: Saliency mean",
        "SCAAT: Saliency max",
    }  # fmt: skip
    assert all(set(t["properties"]["measurements"]) == names for t in tiles)
    assert {t["properties"]["classification"]["name"] for t in tiles} == {"normal", "Tumor"}
    assert regions
    for number, region in enumerate(regions, start=1):
        properties = region["properties"]
        assert properties["name"] == f"High evidence {number}"
        assert properties["isLocked"] is True
        assert properties["classification"] == {
            "names": ["Evidence", "High"], "color": [255, 200, 0],
        }  # fmt: skip
        assert properties["measurements"]["SCAAT: Area um^2"] > 0
    # those cut from saliency are called after it
    cut = config.model_copy(update={"drawn": "saliency", "formats": ("geojson-plain",)})
    export_slide(slide_map, store, tmp_path / "s", cut)
    of_saliency = [
        f["properties"]
        for f in json.loads((tmp_path / "s" / "S1.geojson").read_text())["features"]
        if f["properties"]["objectType"] == "annotation"
    ]
    assert of_saliency[0]["name"] == "High saliency 1"
    assert of_saliency[0]["classification"]["names"] == ["Saliency", "High"]
    areas = [r["properties"]["measurements"]["SCAAT: Area um^2"] for r in regions]
    ring = np.array(regions[0]["geometry"]["coordinates"][0])
    if len(regions[0]["geometry"]["coordinates"]) == 1:
        x, y = ring[:-1].T
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        assert areas[0] == pytest.approx(area * 0.2423**2, rel=1e-3)


def test_one_picture_scale_or_that_of_the_cohort(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    export_slide(slide_map, store, tmp_path / "a", ExportConfig(formats=("csv",)))
    export_slide(slide_map, store, tmp_path / "b", ExportConfig(formats=("csv",), vmax=3.0))
    records = [json.loads((tmp_path / name / "S1.json").read_text()) for name in "ab"]
    values = SlideMap(slide_map).read("saliency")
    scales = [record["saliency_scale"] for record in records]
    # a model that tells no reference: saliency has the slide's own scale, and says so
    assert scales[0]["vmax"] == pytest.approx(np.nanquantile(values, 0.995), rel=0.01)
    assert "this slide alone" in scales[0]["source"]
    assert (scales[1]["vmax"], scales[1]["source"]) == (3.0, "set for the cohort")
    # evidence is on a fixed scale then, never on the slide's
    assert records[0]["colour_scale"]["vmax"] == 1.0
    assert records[0]["colour_scale"]["floor"] == 0.25


def test_ome_tiff_is_valid_named_and_anonymous(tmp_path: Path) -> None:
    import ome_types  # takes a second, in the process that needs it

    slide_map, store = made(tmp_path)
    export_slide(slide_map, store, tmp_path / "o", ExportConfig(formats=("ome-tiff",)))
    path = tmp_path / "o" / "S1.ome.tiff"
    found = SlideMap(slide_map)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        assert tiff.ome_metadata is not None
        ome_types.validate_xml(tiff.ome_metadata)
        ome = ome_types.from_xml(tiff.ome_metadata)
        pixels = ome.images[0].pixels
        assert [c.name for c in pixels.channels] == list(found.channel_names)
        assert pixels.physical_size_x == pytest.approx(found.mpp)
        assert ome.uuid == ome_types.from_xml(tiff.ome_metadata).uuid
        assert "-5" in ome.uuid  # version 5: no time, no network card
        page = tiff.pages[0]
        x_resolution = page.tags["XResolution"].value
        assert 1e4 / (x_resolution[0] / x_resolution[1]) == pytest.approx(found.mpp, rel=1e-6)
        assert "DateTime" not in page.tags
        values = tiff.series[0].asarray()
        for index, name in enumerate(found.channel_names):
            assert np.array_equal(values[index], found.read(name), equal_nan=True)


def test_tables_hold_what_the_tiles_hold(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    formats = ("csv", "annotation-store", "geojson-plain")
    export_slide(slide_map, store, tmp_path / "o", ExportConfig(formats=formats, max_regions=0))
    with (tmp_path / "o" / "S1.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:6] == ["minx", "miny", "width", "height", "prob_normal", "prob_tumour"]
    features = json.loads((tmp_path / "o" / "S1.geojson").read_text())["features"]
    measured = [f["properties"]["measurements"]["SCAAT: Tumor probability"] for f in features]
    assert [float(row["prob_tumour"]) for row in rows] == measured
    connection = sqlite3.connect(tmp_path / "o" / "S1.db")
    stored = connection.execute("SELECT key, properties FROM annotations").fetchall()
    connection.close()
    assert [json.loads(p)["Tumor probability"] for _, p in stored] == measured
    assert [key for key, _ in stored] == [f["id"] for f in features]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its own files
def test_tiatoolbox_opens_the_annotation_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide_map, store = made(tmp_path)
    export_slide(slide_map, store, tmp_path / "o", ExportConfig(formats=("annotation-store",)))
    storage = importlib.import_module("tiatoolbox.annotation.storage")
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        # only its check of sqlite's options needs this; reading does not
        monkeypatch.setattr(
            storage.SQLiteStore, "compile_options", staticmethod(lambda: ["ENABLE_RTREE"])
        )
    opened = storage.SQLiteStore(tmp_path / "o" / "S1.db")
    assert len(opened) == 108
    near = opened.query((1000, 2000, 1100, 2100))
    assert near
    annotation = next(iter(near.values()))
    assert annotation.geometry.bounds[0] >= 1000  # the whole canvas, as OpenSlide counts
    assert {"type", "Tumor probability", "saliency mean"} <= set(annotation.properties)
    for connection in opened.cons.values():
        connection.close()
    opened.cons = {}
    opened.auto_commit = False


def test_empty_slides_export_too(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path, kept=np.zeros((9, 12), bool))
    config = ExportConfig(formats=EVERYTHING)
    result = export_slide(slide_map, store, tmp_path / "o", config)
    assert (result.n_tiles, result.n_regions) == (0, 0)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    attributes = store / "zarr.json"
    attributes.write_text(attributes.read_text().replace("b" * 64, "e" * 64))
    with pytest.raises(ExportError, match="stitched from other saliency"):
        export_slide(slide_map, store, tmp_path / "o")
    with pytest.raises(StoreError):
        export_slide(tmp_path / "none.ome.zarr", store, tmp_path / "o")


def test_a_bad_export_leaves_no_record(tmp_path: Path) -> None:
    slide_map, store = made(tmp_path)
    export_slide(slide_map, store, tmp_path / "o", ExportConfig(formats=("csv",)))
    config = ExportConfig(formats=("csv", "png"))
    with pytest.raises(OSError, match="absent"):
        export_slide(slide_map, store, tmp_path / "o", config, slide_path=tmp_path / "absent.svs")
    assert not (tmp_path / "o" / "S1.json").exists()


def test_classes_have_qupath_names_and_steady_colours() -> None:
    assert qupath_class("tumour").name == "Tumor"
    assert qupath_class("TUMOR").colour == (200, 0, 0)
    assert qupath_class(" odd\nname ").name == "odd name"
    assert qupath_class("").name == "Unnamed"
    assert qupath_class("gland").colour == qupath_class("gland").colour
    assert [c.name for c in qupath_classes(("tumor", "tumour"))] == ["Tumor", "Tumor 2"]


def test_a_warning_says_of_which_model_it_is(tmp_path: Path) -> None:
    cohort = ExportedCohort(
        tmp_path,
        (
            {"model_fingerprint": "a" * 64,
             "model": {"fingerprint": "a" * 64, "nothing_learnt": "LEARNT NOTHING"}},
            {"model_fingerprint": "b" * 64,
             "model": {"fingerprint": "b" * 64, "nothing_learnt": ""}},
        ),
    )  # fmt: skip
    assert cohort.warning == f"Model {'a' * 16}: LEARNT NOTHING"
    assert replace(cohort, records=cohort.records[:1]).warning == "LEARNT NOTHING"
    assert replace(cohort, records=cohort.records[1:]).warning == ""


def test_cohort_page_and_contact_sheet_need_nothing_else(tmp_path: Path) -> None:
    for number in range(3):
        slide_map, store = made(tmp_path, f"<S&{number}>"[1:-1], seed=number)
        export_slide(slide_map, store, tmp_path / "o", ExportConfig(formats=("png", "csv")))
    first = [file_sha256(path) for path in write_cohort(tmp_path / "o")]
    page = (tmp_path / "o" / "index.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 3
    assert "S&amp;2" in page
    assert str(tmp_path) not in page
    with Image.open(tmp_path / "o" / "contact_sheet.png") as sheet:
        assert sheet.width == 3 * 420
    assert write_cohort(tmp_path / "o") == []
    (tmp_path / "o" / "contact_sheet.png").unlink()
    assert [file_sha256(path) for path in write_cohort(tmp_path / "o")] == first
    (tmp_path / "o" / "index.html").unlink()
    assert [file_sha256(path) for path in write_cohort(tmp_path / "o")] == first
    # A slide that was taken out of the manifest is no part of the cohort without a word.
    assert "EARLIER" not in page
    assert len(write_cohort(tmp_path / "o", earlier={"S&1": "not in the manifest"})) == 2
    page = (tmp_path / "o" / "index.html").read_text()
    assert "3 slides (1 of them of an earlier run)" in page
    assert page.count("OF AN EARLIER RUN: not in the manifest") == 2
    assert page.index("S&amp;1</a>") < page.index("OF AN EARLIER RUN") < page.index("S&amp;2</a>")
    with pytest.raises(ExportError):
        write_page(read_cohort(tmp_path))
    with pytest.raises(ExportError):
        write_contact_sheet(read_cohort(tmp_path))


@pytest.mark.parametrize(
    ("count", "columns"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 3), (7, 4), (9, 3), (100, 10)],
)
def test_a_contact_sheet_is_about_square_and_full(count: int, columns: int) -> None:
    assert columns_for(count) == columns


def test_scripts_travel_with_the_package() -> None:
    folder = resources.files("pathology_scaat.export") / "scripts"
    names = {entry.name for entry in folder.iterdir() if entry.name.endswith(".groovy")}
    assert names == {
        "scaat_import.groovy", "scaat_heatmap.groovy", "scaat_export_annotations.groovy",
    }  # fmt: skip
    for name in names:
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count("{") == text.count("}")
        assert text.count("(") == text.count(")")


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_both_kinds_of_map_export_alike(tmp_path: Path, ngff: str) -> None:
    _, store = made(tmp_path)
    stitch_slide(store, tmp_path / "x.ome.zarr", StitchConfig(ngff=ngff))
    export_slide(tmp_path / "x.ome.zarr", store, tmp_path / "o", ExportConfig(formats=("csv",)))
    digest = hashlib.sha256((tmp_path / "o" / "S1.csv").read_bytes()).hexdigest()
    export_slide(tmp_path / "S1.ome.zarr", store, tmp_path / "p", ExportConfig(formats=("csv",)))
    assert digest == hashlib.sha256((tmp_path / "p" / "S1.csv").read_bytes()).hexdigest()
