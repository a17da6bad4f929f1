"""SpatialData: opens again, and every element lies where it is on the slide."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from map_stores import make_saliency_store

import pathology_scaat as ps
from pathology_scaat.errors import ExportError, UsageError
from pathology_scaat.export.spatial_data import to_spatialdata, write_spatialdata
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.stitching import stitch_slide

GRID = PatchGrid(100.0, 60.0, 2.0, 64, 32, 9, 7)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("spatial")
    make_saliency_store(
        folder / "s.zarr", GRID, mpp=0.25, bounds=BoxPx(90, 50, 700, 600), size=SizePx(900, 800)
    )
    stitch_slide(folder / "s.zarr", folder / "m.ome.zarr")
    return folder / "m.ome.zarr", folder / "s.zarr"


def test_without_the_extra_one_sentence_says_so(
    stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(UsageError, match=r"pathology-scaat\[spatialdata\]"):
        to_spatialdata(*stores)


@pytest.mark.filterwarnings("ignore")
def test_it_opens_again_and_lies_where_the_slide_has_it(
    stores: tuple[Path, Path], tmp_path: Path
) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.transformations import get_transformation

    path = write_spatialdata(*stores, tmp_path / "a.zarr")
    with pytest.raises(ExportError, match="is there already"):
        write_spatialdata(*stores, path)
    opened = spatialdata.read_zarr(path)
    assert set(opened.coordinate_systems) == {"slide_px", "slide_um"}
    slide_map = ps.open_map(stores[0])
    image = opened["map"]
    assert list(image.coords["c"].values) == list(slide_map.channel_names)
    for number, channel in enumerate(slide_map.channel_names):
        assert np.array_equal(image[number].values, slide_map.read(channel), equal_nan=True)
    for system, unit in (("slide_px", 1.0), ("slide_um", 0.25)):
        matrix = get_transformation(image, system).to_affine_matrix(("x", "y"), ("x", "y"))
        size = slide_map.size_px()
        corners = matrix @ np.array([[0, size.width], [0, size.height], [1, 1]])
        wanted = np.array([[90, 790], [50, 650]]) * unit
        assert np.abs(corners[:2] - wanted).max() <= slide_map.scale_px * unit
        assert np.abs(corners[:2, 0] - wanted[:, 0]).max() < 1e-9
        boxes = spatialdata.transform(opened["tiles"], to_coordinate_system=system)
        origins = ps.SaliencyStore(stores[1]).origins_px * unit
        found = boxes.geometry.bounds[["minx", "miny"]].to_numpy()
        assert np.abs(found - origins).max() <= unit
    table = opened["scores"]
    assert list(table.var_names) == ["normal", "tumour"]
    assert np.allclose(table.X, ps.SaliencyStore(stores[1]).probability)
    facts = opened.attrs["pathology_scaat"]
    assert facts["model_fingerprint"] == "d" * 64
    assert "not known" in facts["model_quality"]
