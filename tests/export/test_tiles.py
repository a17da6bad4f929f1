"""Tiles cover what the map covers, to the edge of the tissue."""

from __future__ import annotations

import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from map_stores import make_saliency_store

from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.qupath.geojson import tile_features, write_geojson
from pathology_scaat.export.qupath.palette import qupath_classes
from pathology_scaat.export.qupath.validator import geojson_problems
from pathology_scaat.export.tiles import tile_table
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide
from pathology_scaat.stitching.source import SaliencySource


def edges(folder: Path, grid: PatchGrid, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    store = make_saliency_store(folder / "s.zarr", grid, kept=kept, stride_px=16)
    table = tile_table(SaliencySource(store), StitchConfig())
    return table.edges_px, table.patch_px


def area(boxes: np.ndarray) -> float:
    return float(shapely.union_all(shapely.box(*boxes.T.astype(float))).area)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=4, max_size=4),
    st.sampled_from([64, 48, 32]),
    st.sampled_from([1.0, 2.13]),
)
def test_cells_cover_what_patches_cover(kept: list[list[bool]], step: int, scale: float) -> None:
    mask = np.array(kept)
    with tempfile.TemporaryDirectory() as folder:
        cells, patches = edges(Path(folder), PatchGrid(100.0, 50.0, scale, 64, step, 5, 4), mask)
    if not mask.any():
        return
    assert area(cells) == pytest.approx(area(patches), rel=1e-9)
    assert (cells[:, :2] >= patches[:, :2]).all()
    assert (cells[:, 2:] <= patches[:, 2:]).all()
    assert (cells[:, :2] < cells[:, 2:]).all()


def test_inner_cells_abut_as_before(tmp_path: Path) -> None:
    cells, patches = edges(tmp_path, PatchGrid(0.0, 0.0, 1.0, 64, 32, 5, 4), np.ones((4, 5), bool))
    assert float(((cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])).sum()) == area(patches)
    assert cells[6].tolist() == [48, 48, 80, 80]
    assert cells[0].tolist() == [0, 0, 48, 48]


def test_many_overlapping_patches_leave_no_rim(tmp_path: Path) -> None:
    """Steps of a quarter: half-way cells where one patch of a row is missing."""
    kept = np.ones((7, 7), bool)
    kept[3, 3] = False
    cells, patches = edges(tmp_path, PatchGrid(0.0, 0.0, 1.0, 64, 16, 7, 7), kept)
    assert area(cells) == area(patches)


def test_tiles_and_map_cover_the_same_tissue(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    kept = rng.random((9, 11)) < 0.7
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 32, 11, 9)
    store = make_saliency_store(tmp_path / "s.zarr", grid, kept=kept, stride_px=8)
    stitch_slide(store, tmp_path / "m.ome.zarr")
    config = ExportConfig(formats=("geojson",), max_regions=0)
    export_slide(tmp_path / "m.ome.zarr", store, tmp_path / "o", config)
    features = json.loads(gzip.decompress((tmp_path / "o" / "S1.geojson.gz").read_bytes()))
    rings = [shapely.Polygon(f["geometry"]["coordinates"][0]) for f in features["features"]]
    drawn = shapely.union_all(rings).area
    found = SlideMap(tmp_path / "m.ome.zarr")
    covered = (~np.isnan(found.read("saliency"))).sum() * found.meta.scale_px**2
    assert drawn == pytest.approx(covered, rel=0.002)


def test_further_measurements_are_written_where_there_are_any(tmp_path: Path) -> None:
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 64, 3, 1)
    source = SaliencySource(make_saliency_store(tmp_path / "s.zarr", grid, stride_px=16))
    table = tile_table(source, StitchConfig())
    unlike = ("Unlike training (percentile)", np.array([12.0, np.nan, 99.5]))
    table = replace(table, more=(unlike,))
    frame = ExportFrame.of(source.meta.slide, "bounds")
    classes = qupath_classes(source.meta.class_names)
    path = tmp_path / "t.geojson"
    write_geojson(path, tile_features(table, np.arange(3), classes, frame, "key"))
    assert geojson_problems(path) == []
    measured = [f["properties"]["measurements"] for f in json.loads(path.read_text())["features"]]
    name = "SCAAT: Unlike training (percentile)"
    assert [m.get(name) for m in measured] == [12.0, None, 99.5]
