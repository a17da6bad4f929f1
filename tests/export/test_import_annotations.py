"""Annotations corrected in QuPath come back as labels, in the right pixels."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_stores import make_saliency_store

from pathology_scaat.annotations import label_patches, read_annotations
from pathology_scaat.errors import AnnotationError
from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.qupath.import_annotations import import_annotations
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.stitching import stitch_slide

BOUNDS = BoxPx(1000, 2000, 640, 512)


def exported(folder: Path, origin: str = "bounds") -> Path:
    grid = PatchGrid(1000.0, 2000.0, 1.0, 64, 64, 10, 8)
    store = make_saliency_store(
        folder / "s.zarr", grid, bounds=BOUNDS, size=SizePx(5000, 6000), stride_px=8
    )
    stitch_slide(store, folder / "m.ome.zarr")
    config = ExportConfig(
        formats=("geojson",), qupath_origin=origin, region_min_probability=0,
        region_quantile=0.5, min_region_um2=0,
    )  # fmt: skip
    export_slide(folder / "m.ome.zarr", store, folder / "overlays", config)
    return folder / "overlays"


def drawn(x: float, y: float, side: float, name: Any) -> dict[str, Any]:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    identity = f"6ba7b810-9dad-51d1-80b4-{int(x) % 4096:012x}"
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}


def saved(path: Path, *features: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"type": "FeatureCollection", "features": list(features)})
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("origin", ["bounds", "full"])
def test_bounds_are_added_again(tmp_path: Path, origin: str) -> None:
    overlays = exported(tmp_path, origin)
    shift = (0, 0) if origin == "bounds" else (BOUNDS.x, BOUNDS.y)
    saved(
        tmp_path / "qupath" / "S1.geojson",
        drawn(128 + shift[0], 64 + shift[1], 128, "Tumor"),
        drawn(320 + shift[0], 320 + shift[1], 64, None),
    )
    (done,) = import_annotations(tmp_path / "qupath", overlays, tmp_path / "labels")
    assert (done.slide_id, done.classes) == ("S1", {"tumour": 1})
    assert done.notes == ("1 annotations without a class left out",)
    polygons = read_annotations(done.path, offset_px=(BOUNDS.x, BOUNDS.y))
    assert polygons[0].geometry.bounds == (1128, 2064, 1256, 2192)
    origins = np.array([[1128, 2064], [1192, 2128], [1256, 2064]], float)
    labels, _ = label_patches(polygons, ("normal", "tumour"), origins, 64.0)
    assert labels.tolist() == [1, 1, -1]


def test_what_we_exported_comes_back_without_our_own_regions(tmp_path: Path) -> None:
    overlays = exported(tmp_path)
    features = json.loads(gzip.decompress((overlays / "S1.geojson.gz").read_bytes()))["features"]
    regions = [f for f in features if f["properties"]["objectType"] == "annotation"]
    assert regions
    regions[0]["properties"]["classification"] = {"name": "Tumor", "color": [200, 0, 0]}
    saved(tmp_path / "qupath" / "S1.geojson.gz", *features)
    (done,) = import_annotations(tmp_path / "qupath", overlays, tmp_path / "labels")
    assert done.classes == {"tumour": 1}
    again = import_annotations(tmp_path / "qupath", overlays, tmp_path / "labels2")[0]
    assert done.path.read_bytes() == again.path.read_bytes()


def test_areas_over_the_edge_are_cut_and_others_refused(tmp_path: Path) -> None:
    overlays = exported(tmp_path)
    saved(tmp_path / "qupath" / "S1.geojson", drawn(-20, -20, 100, "Stroma"))
    (done,) = import_annotations(tmp_path / "qupath", overlays, tmp_path / "labels")
    assert done.notes == ("1 areas cut at the edge of the image",)
    assert read_annotations(done.path)[0].geometry.bounds == (0, 0, 80, 80)
    saved(tmp_path / "qupath" / "S1.geojson", drawn(1000, 2000, 100, "Stroma"))
    with pytest.raises(AnnotationError, match="outside the image of 640 x 512"):
        import_annotations(tmp_path / "qupath", overlays, tmp_path / "labels")


def test_the_manifest_names_slides_and_gets_the_files(tmp_path: Path) -> None:
    overlays = exported(tmp_path)
    (tmp_path / "case 7.svs").write_bytes(b"x")
    (tmp_path / "m.csv").write_text("slide_path,slide_id\ncase 7.svs,S1\n")
    saved(tmp_path / "qupath" / "case 7.geojson", drawn(0, 0, 100, "Tumor"))
    with pytest.raises(AnnotationError, match="no slide that was exported"):
        import_annotations(tmp_path / "qupath", overlays, tmp_path / "labels")
    import_annotations(
        tmp_path / "qupath", overlays, tmp_path / "labels", manifest=tmp_path / "m.csv"
    )
    assert "S1.geojson" in (tmp_path / "labels" / "manifest.csv").read_text()


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no \.geojson file"):
        import_annotations(tmp_path, tmp_path, tmp_path / "labels")
