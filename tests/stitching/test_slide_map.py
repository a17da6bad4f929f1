"""The map on disk: NGFF metadata, the pyramid, reading parts, refusing what is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from map_stores import make_saliency_store

from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.geometry import BoxPx, PatchGrid
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide
from pathology_scaat.stitching.ome_zarr import halve


def made(folder: Path, ngff: Any = "0.5") -> Path:
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 32, 40, 30)
    kept = np.random.default_rng(5).random((30, 40)) < 0.5
    store = make_saliency_store(folder / "s.zarr", grid, kept=kept, stride_px=2)
    stitch_slide(store, folder / "m.ome.zarr", StitchConfig(ngff=ngff))
    return folder / "m.ome.zarr"


def test_ngff_05_says_scale_units_and_channels(tmp_path: Path) -> None:
    path = made(tmp_path)
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    ome = attributes["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert [a["name"] for a in image["axes"]] == ["c", "y", "x"]
    assert image["axes"][1]["unit"] == "micrometer"
    for level, entry in enumerate(image["datasets"]):
        scale, shift = entry["coordinateTransformations"]
        assert scale["scale"] == [1.0, 1.0 * 2**level, 1.0 * 2**level]
        assert shift["translation"][1] == (2**level - 1) / 2  # centres of coarser pixels
    names = [
        "probability: normal", "probability: tumour", "evidence: tumour", "saliency", "patches",
    ]  # fmt: skip
    assert [c["label"] for c in ome["omero"]["channels"]] == names
    array = zarr.open_array(path / "0", mode="r")
    assert array.shape == (4, 498, 659)
    assert np.isnan(array.fill_value)


def test_ngff_04_is_what_qupath_reads(tmp_path: Path) -> None:
    path = made(tmp_path, "0.4")
    assert json.loads((path / ".zattrs").read_text()) == {"bioformats2raw.layout": 3}
    multiscale = json.loads((path / "0" / ".zattrs").read_text())["multiscales"][0]
    assert multiscale["version"] == "0.4"
    array = json.loads((path / "0" / "0" / ".zarray").read_text())
    assert array["compressor"]["id"] == "blosc"
    assert array["dimension_separator"] == "/"
    assert array["zarr_format"] == 2
    xml = (path / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
    assert 'PhysicalSizeX="1.0"' in xml
    assert 'Name="saliency"' in xml
    ome_types = pytest.importorskip("ome_types")
    ome_types.validate_xml(xml)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_the_pyramid_is_the_mean_of_what_has_data(tmp_path: Path, ngff: str) -> None:
    found = SlideMap(made(tmp_path, ngff))
    assert found.ngff == ngff
    assert found.n_levels == 3
    for channel in found.channel_names:
        for level in range(1, found.n_levels):
            fine, coarse = found.read(channel, level - 1), found.read(channel, level)
            assert np.array_equal(halve(fine), coarse, equal_nan=True)
    part = found.read("saliency", 1, BoxPx(10, 20, 30, 40))
    assert np.array_equal(part, found.read("saliency", 1)[20:60, 10:40], equal_nan=True)


def test_halving_ignores_what_has_no_data() -> None:
    values = np.array([[1, np.nan, 5], [3, np.nan, np.nan], [np.nan, np.nan, 2]], np.float32)
    assert np.array_equal(
        halve(values), np.array([[2, 5], [np.nan, 2]], np.float32), equal_nan=True
    )


def test_unknown_channels_are_named(tmp_path: Path) -> None:
    found = SlideMap(made(tmp_path))
    with pytest.raises(UsageError, match="choose one of"):
        found.read("heat")
    assert found.level_for(10_000) == 0
    assert found.level_for(1) == found.n_levels - 1


def test_damaged_maps_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path)
    with pytest.raises(StoreError, match="not a slide map"):
        SlideMap(tmp_path / "none")
    root = path / "zarr.json"
    good = root.read_text()
    root.write_text(good.replace('"pathology_scaat.map"', '"something.else"'))
    with pytest.raises(StoreError, match="schema version"):
        SlideMap(path)
    root.write_text(good.replace('"scale_px"', '"scale"'))
    with pytest.raises(StoreError, match="damaged attributes"):
        SlideMap(path)
    root.write_text(good)
    shutil.rmtree(path / "1")
    with pytest.raises(StoreError, match="not a slide map"):
        SlideMap(path)


def test_a_half_written_map_is_made_anew(tmp_path: Path) -> None:
    path = made(tmp_path)
    shutil.rmtree(path / "1")
    assert not stitch_slide(tmp_path / "s.zarr", path).skipped
    assert stitch_slide(tmp_path / "s.zarr", path).skipped
