"""Marks planted on slides are found, to the level-0 pixel, in every file that is exported."""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from map_stores import darkness_store, make_saliency_store, write_marked_slide
from numpy.typing import NDArray
from PIL import Image

from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.raster.thumbnail import frame_thumbnail
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.slides import open_slide
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide

SIZE = SizePx(3001, 2333)
MARKS = [BoxPx(301, 203, 96, 96), BoxPx(2703, 1911, 160, 128), BoxPx(1203, 1401, 64, 200)]
FORMATS_OF_MARKS = (
    "geojson", "ome-tiff", "rgb-tiff", "tile-png", "png", "csv", "annotation-store",
)  # fmt: skip
MPPS = [0.2423, 0.265, 0.5]


def centroid(
    values: NDArray[np.floating[Any]], scale_px: float, near: BoxPx, origin: tuple[int, int]
) -> tuple[float, float]:
    """Centre of mass around a mark, in level-0 pixels."""
    margin = 60
    x0 = max(int((near.x - origin[0] - margin) / scale_px), 0)
    y0 = max(int((near.y - origin[1] - margin) / scale_px), 0)
    x1 = int((near.right - origin[0] + margin) / scale_px) + 1
    y1 = int((near.bottom - origin[1] + margin) / scale_px) + 1
    part = np.nan_to_num(np.asarray(values[y0:y1, x0:x1], np.float64))
    ys, xs = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
    total = part.sum()
    return (
        float(((xs + 0.5) * part).sum() / total * scale_px + origin[0]),
        float(((ys + 0.5) * part).sum() / total * scale_px + origin[1]),
    )


def middle(mark: BoxPx) -> tuple[float, float]:
    return mark.x + mark.width / 2, mark.y + mark.height / 2


def everything(folder: Path, slide: Path, patch_mpp: float, overlap: str, map_mpp: float | None,
               mpp: float | None = None, patch_size_px: int = 64,
               formats: tuple[str, ...] = FORMATS_OF_MARKS) -> Path:  # fmt: skip
    """Tile a slide, take darkness for saliency, stitch, export; returns the overlay folder."""
    mask = folder / "everything.png"
    with open_slide(slide, mpp=mpp) as opened:
        frame = opened.info.frame_px
    Image.fromarray(np.full((frame.height, frame.width), 255, np.uint8)).save(mask)
    config = TileConfig(mpp=patch_mpp, patch_size_px=patch_size_px, overlap=overlap,
                        min_tissue=0.0)  # fmt: skip
    tile_slide(TileJob(slide, "S1", folder / "p.zarr", config, mpp=mpp, mask_path=mask))
    darkness_store(folder / "p.zarr", folder / "s.zarr", stride_px=2)
    stitch_slide(
        folder / "s.zarr", folder / "m.ome.zarr", StitchConfig(mpp=map_mpp, weighting="none")
    )
    export_slide(
        folder / "m.ome.zarr", folder / "s.zarr", folder / "o",
        ExportConfig(formats=formats, drawn="saliency", region_threshold=0.5,
                     region_min_probability=0, min_region_um2=0, region_mpp=0.1),
        slide_path=slide, mpp=mpp,
    )  # fmt: skip
    return folder / "o"


@pytest.mark.parametrize("mpp", MPPS)
@pytest.mark.parametrize(("overlap", "map_mpp"), [("0", None), ("0.5", 1.9)])
def test_marks_are_where_they_were_planted(
    tmp_path: Path, mpp: float, overlap: str, map_mpp: float | None
) -> None:
    slide = write_marked_slide(tmp_path / "slide.tiff", MARKS, SIZE, mpp)
    out = everything(tmp_path, slide, 0.5, overlap, map_mpp)
    slide_map = SlideMap(tmp_path / "m.ome.zarr")
    with tifffile.TiffFile(out / "S1.ome.tiff") as tiff:
        written = [
            level.asarray()[slide_map.channel_index("saliency")] for level in tiff.series[0].levels
        ]
    viewer = openslide.OpenSlide(out / "S1.rgb.tiff")
    assert viewer.level_count == len(written)
    assert float(viewer.properties["openslide.mpp-x"]) == pytest.approx(slide_map.mpp, rel=1e-5)
    for mark in MARKS:
        for level, values in enumerate(written):
            scale = slide_map.level_scale_px(level)
            if scale > 16:  # fewer than four pixels a mark
                break
            assert np.array_equal(values, slide_map.read("saliency", level), equal_nan=True)
            found = centroid(values, scale, mark, (0, 0))
            assert np.abs(np.subtract(found, middle(mark))).max() < 1.0
            size = viewer.level_dimensions[level]
            colours = np.asarray(viewer.read_region((0, 0), level, size).convert("RGB"))
            assert colours.shape[:2] == values.shape
    # the brightest regions are the marks
    features = json.loads(gzip.decompress((out / "S1.geojson.gz").read_bytes()))["features"]
    regions = [f for f in features if f["properties"]["objectType"] == "annotation"]
    assert len(regions) == len(MARKS)
    half = slide_map.scale_px / 2 + 1
    for mark in MARKS:
        best = min(
            regions,
            key=lambda f: abs(
                np.mean(f["geometry"]["coordinates"][0], axis=0)[0] - middle(mark)[0]
            ),
        )
        ring = np.asarray(best["geometry"]["coordinates"][0])
        bounds = [*ring.min(axis=0), *ring.max(axis=0)]
        expected = [mark.x, mark.y, mark.right, mark.bottom]
        assert np.abs(np.subtract(bounds, expected)).max() <= half


@pytest.mark.parametrize("mpp", MPPS)
@pytest.mark.parametrize("step", [256, 128, 77])
def test_tiles_never_drift_over_a_large_slide(tmp_path: Path, mpp: float, step: int) -> None:
    """Tiles at the far end of a 100,000 px slide are within a pixel of their exact place."""
    scale = 0.5 / mpp
    n = int(100_000 / (step * scale))
    kept = np.zeros((n, n), bool)
    kept[:: n // 7, :: n // 7] = True
    kept[-1, -1] = True
    grid = PatchGrid(13.0, 7.0, scale, 256, step, n, n)
    bounds = BoxPx(13, 7, int(n * step * scale) + 600, int(n * step * scale) + 600)
    store = make_saliency_store(
        tmp_path / "s.zarr", grid, kept=kept, stride_px=64, mpp=mpp, bounds=bounds,
        size=SizePx(bounds.right + 50, bounds.bottom + 50),
    )  # fmt: skip
    stitch_slide(store, tmp_path / "m.ome.zarr", StitchConfig(mpp=60))
    config = ExportConfig(formats=("geojson-plain", "csv", "tile-png", "annotation-store"),
                          tile_shape="patch", max_regions=0)  # fmt: skip
    export_slide(tmp_path / "m.ome.zarr", store, tmp_path / "o", config)
    index = grid.all_indices()
    index = index[kept[index[:, 1], index[:, 0]]]
    exact = grid.exact_origins_px(index)
    exact = np.concatenate([exact, exact + 256 * scale], axis=1)
    features = json.loads((tmp_path / "o" / "S1.geojson").read_text())["features"]
    rings = np.array([f["geometry"]["coordinates"][0] for f in features])
    boxes = np.concatenate([rings.min(axis=1), rings.max(axis=1)], axis=1)
    shift = np.array([13, 7, 13, 7])  # QuPath counts from the bounds
    assert np.abs(boxes + shift - exact).max() <= 0.5
    with (tmp_path / "o" / "S1.csv").open() as stream:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
    tables = [[r["minx"], r["miny"], r["minx"] + r["width"], r["miny"] + r["height"]] for r in rows]
    assert np.abs(np.array(tables) - exact).max() <= 0.5  # OpenSlide counts from the canvas
    connection = sqlite3.connect(tmp_path / "o" / "S1.db")
    centres = np.array(connection.execute("SELECT cx, cy FROM annotations").fetchall())
    connection.close()
    assert np.abs(centres - (exact[:, :2] + exact[:, 2:]) / 2).max() <= 1


def test_abutting_cells_leave_no_gap(tmp_path: Path) -> None:
    grid = PatchGrid(0.0, 0.0, 0.5 / 0.2423, 64, 27, 9, 8)
    store = make_saliency_store(tmp_path / "s.zarr", grid)
    stitch_slide(store, tmp_path / "m.ome.zarr")
    config = ExportConfig(formats=("geojson-plain",), max_regions=0)
    export_slide(tmp_path / "m.ome.zarr", store, tmp_path / "o", config)
    features = json.loads((tmp_path / "o" / "S1.geojson").read_text())["features"]
    covered = np.zeros((700, 700), int)
    for feature in features:
        (x0, y0), (x1, y1) = (feature["geometry"]["coordinates"][0][k] for k in (0, 2))
        covered[y0:y1, x0:x1] += 1
    rows, columns = np.nonzero(covered)
    assert covered.max() == 1
    assert (covered[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 1).all()


def test_the_tile_picture_lies_on_the_tiles(tmp_path: Path) -> None:
    grid = PatchGrid(40.0, 30.0, 1.3, 64, 32, 11, 9)
    store = make_saliency_store(
        tmp_path / "s.zarr", grid, bounds=BoxPx(40, 30, 500, 420), size=SizePx(600, 600)
    )
    stitch_slide(store, tmp_path / "m.ome.zarr")
    config = ExportConfig(formats=("tile-png", "geojson-plain"))
    export_slide(tmp_path / "m.ome.zarr", store, tmp_path / "o", config)
    record = json.loads((tmp_path / "o" / "S1.json").read_text())
    x, y, width, height = record["files"]["S1.tiles.png"]["region_px"]
    with Image.open(tmp_path / "o" / "S1.tiles.png") as picture:
        assert (picture.size, picture.mode) == ((11, 9), "RGBA")
    assert (width / 11, height / 9) == pytest.approx((32 * 1.3, 32 * 1.3))
    features = json.loads((tmp_path / "o" / "S1.geojson").read_text())["features"]
    tiles = [f for f in features if f["properties"]["objectType"] == "tile"]
    inner = tiles[11 + 1]["geometry"]["coordinates"][0][0]  # those at the edge reach further
    assert np.abs(np.subtract(inner, (x + width / 11, y + height / 9))).max() <= 0.5


FORMATS = {
    "aperio_like.svs": None,
    "leica_like.scn": None,
    "mirax_like.mrxs": None,
    "hamamatsu_like.ndpi": None,
    "philips_like.tiff": None,
    "dicom_wsi": None,
    "pyramid.ome.tiff": 0.499,
}


@pytest.mark.real
@pytest.mark.parametrize("name", FORMATS)
def test_maps_lie_on_real_slides_of_every_format(tmp_path: Path, data_dir: Path, name: str) -> None:
    """A map of darkness, laid on the slide, is the slide: any shift would lower the match."""
    slide = data_dir / "formats" / name
    everything(tmp_path, slide, 0.998, "0.5", None, mpp=FORMATS[name], formats=("png",))
    slide_map = SlideMap(tmp_path / "m.ome.zarr")
    with Image.open(tmp_path / "o" / "S1.png") as picture:
        grey = np.asarray(picture.convert("L"))
    assert grey.std() > 10  # the slide is in the picture
    values = slide_map.read("saliency")
    with open_slide(slide, mpp=FORMATS[name]) as opened:
        fine = frame_thumbnail(
            opened,
            SizePx(slide_map.size_px().width * 4, slide_map.size_px().height * 4),
            slide_map.scale_px / 4,
        )
    dark = 1 - fine.astype(np.float64).mean(axis=2) / 255
    height, width = values.shape
    step_px = slide_map.scale_px / 4
    inside = ~np.isnan(values)
    inside[[0, 1, -2, -1]] = inside[:, [0, 1, -2, -1]] = False
    # means of 4 x 4 pixels from each pixel on: one pixel in four is a map that is moved by a part
    blocks = np.pad(dark, 4, mode="wrap")
    for axis in (0, 1):
        blocks = np.mean(np.lib.stride_tricks.sliding_window_view(blocks, 4, axis=axis), axis=2)
    errors = {}
    for dy in range(-4, 5):
        for dx in range(-4, 5):
            mean = blocks[4 - dy :: 4, 4 - dx :: 4][:height, :width]
            errors[dx, dy] = float(np.abs(mean - values)[inside].mean())
    best = min(errors, key=lambda shift: errors[shift])
    assert max(abs(best[0]), abs(best[1])) * step_px <= 1.0
    assert errors[0, 0] < 0.02
    viewer = json.loads((tmp_path / "o" / "S1.json").read_text())["coordinates"]
    assert viewer["frame_size_px"] == [slide_map.frame_px.width, slide_map.frame_px.height]
    if name == "leica_like.scn":
        assert viewer["offset_px"] != [0, 0]
