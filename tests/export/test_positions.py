"""Marks planted in the saliency of every slide format are found in every exported file.

The grid is that of the slide's own tiling; the marks are known level-0 boxes. They are looked
for as another program would: through each file's own frame, scale and metadata.
"""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import openslide
import pytest
import shapely
import tifffile
import zarr
from map_stores import make_saliency_store, write_marked_slide
from numpy.typing import NDArray
from PIL import Image

from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.export.raster import examined
from pathology_scaat.export.raster.colour_scale import ColourScale, colourize, over
from pathology_scaat.export.raster.thumbnail import GREY
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx, plan_grid, plan_read
from pathology_scaat.slides import open_slide
from pathology_scaat.stitching import StitchConfig, stitch_slide

Values = NDArray[np.float64]

PATCH_PX, STRIDE_PX = 128, 4
FILES = (
    "aperio_like.svs", "leica_like.scn", "mirax_like.mrxs", "hamamatsu_like.ndpi",
    "philips_like.tiff", "dicom_wsi", "pyramid.ome.tiff", "multiscale.ome.zarr",
)  # fmt: skip
RASTERS = ("ome-tiff", "rgb-tiff", "png")
TILES = ("geojson", "csv", "annotation-store", "tile-png")
STEPS_PX = (64, 46)
"""Steps of half a patch, and one that no saliency pixel divides."""


def planted(frame: BoxPx) -> list[BoxPx]:
    """Three boxes at odd places of a frame, one near its far corner."""
    w, h = frame.width, frame.height
    if min(w, h) < 2500:  # a small slide has room for one
        return [BoxPx(frame.x + w // 7, frame.y + h // 9, w // 3, h // 4)]
    return [
        BoxPx(frame.x + w // 7, frame.y + h // 9, 401, 333),
        BoxPx(frame.x + w // 2 + 3, frame.y + h // 3 + 1, 297, 512),
        BoxPx(frame.right - 777, frame.bottom - 691, 450, 387),
    ]


def shares(starts: Values, side: float, count: int, low: float, high: float) -> Values:
    """(N, count) share of each pixel of each patch that a mark covers along one axis."""
    edges = starts[:, None] + np.arange(count + 1) * side
    clipped = np.clip(edges, low, high)
    return np.asarray(np.diff(clipped, axis=1) / side)


def marked_store(path: Path, grid: PatchGrid, marks: list[BoxPx], **slide: Any) -> Path:
    """A saliency store that holds the exact area averages of the marks."""
    origin = grid.exact_origins_px(grid.all_indices())
    side, count = STRIDE_PX * grid.scale, PATCH_PX // STRIDE_PX
    values = np.zeros((len(origin), count, count))
    for mark in marks:
        along_x = shares(origin[:, 0], side, count, mark.x, mark.right)
        along_y = shares(origin[:, 1], side, count, mark.y, mark.bottom)
        values += along_y[:, :, None] * along_x[:, None, :]
    return make_saliency_store(
        path, grid, saliency=values, probability=(0.0, 1.0), stride_px=STRIDE_PX, **slide
    )


def centre(values: Values, scale: tuple[float, float], origin: tuple[float, float], mark: BoxPx,
           margin: float = 200) -> tuple[float, float]:  # fmt: skip
    """Level-0 centre of mass of a picture around a mark; ``origin`` is the picture's corner."""
    height, width = values.shape
    xs = origin[0] + (np.arange(width) + 0.5) * scale[0]
    ys = origin[1] + (np.arange(height) + 0.5) * scale[1]
    in_x = (xs > mark.x - margin) & (xs < mark.right + margin)
    in_y = (ys > mark.y - margin) & (ys < mark.bottom + margin)
    part = np.nan_to_num(values[np.ix_(in_y, in_x)])
    assert part.sum() > 0
    weight = part / part.sum()
    return float((weight * xs[in_x]).sum()), float((weight.T * ys[in_y]).sum())


def near(found: tuple[float, float], mark: BoxPx, tolerance: float = 1.0) -> None:
    wanted = (mark.x + mark.width / 2, mark.y + mark.height / 2)
    assert np.abs(np.subtract(found, wanted)).max() < tolerance, (found, wanted)


def values_of(rgb: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Values:
    """What the colours of a picture stand for, 0 to 1, where ``colours`` run from 0 to 1."""
    red, green, blue = np.moveaxis(rgb.astype(np.uint32), 2, 0)
    packed = red << 16 | green << 8 | blue
    there = np.flatnonzero(np.bincount(packed.ravel(), minlength=1 << 24))
    found = np.stack([there >> 16, there >> 8 & 255, there & 255], axis=1)
    far = np.abs(found[:, None] - colours[None].astype(np.int64)).sum(axis=2)
    nearest = np.zeros(1 << 24)
    nearest[there] = far.argmin(axis=1) / (len(colours) - 1)
    return np.asarray(nearest[packed])


def ngff_levels(path: Path) -> list[tuple[Values, float, float]]:
    """Saliency, µm per pixel and µm of the first pixel's centre of each level, by its metadata."""
    group = zarr.open_group(path, mode="r")
    if "bioformats2raw.layout" in group.attrs:
        group = zarr.open_group(path / "0", mode="r")
    attributes = group.attrs.asdict()
    ome: Any = attributes.get("ome", attributes)
    names = [c["label"] for c in ome["omero"]["channels"]]
    found = []
    for entry in ome["multiscales"][0]["datasets"]:
        scale, shift = entry["coordinateTransformations"]
        level: Any = group[entry["path"]]
        values = np.asarray(level[names.index("saliency")], np.float64)
        found.append((values, float(scale["scale"][1]), float(shift["translation"][1])))
    return found


def check_ngff(path: Path, frame: BoxPx, mpp: float, marks: list[BoxPx]) -> None:
    levels = ngff_levels(path)
    for values, pixel_um, first_um in levels:
        scale = pixel_um / mpp
        if scale > 120:
            break
        # the first pixel of level 0 has its centre at 0 µm: half of it lies before
        corner = (first_um + levels[0][1] / 2 - pixel_um / 2) / mpp
        for mark in marks:
            near(centre(values, (scale, scale), (frame.x + corner, frame.y + corner), mark), mark)


def check_ome_tiff(path: Path, frame: BoxPx, mpp: float, marks: list[BoxPx]) -> None:
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        metadata: Any = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        names = [channel["Name"] for channel in metadata["Channel"]]
        for number, level in enumerate(series.levels):
            scale = float(metadata["PhysicalSizeX"]) * 2**number / mpp
            if scale > 120:
                break
            values = level.asarray()[names.index("saliency")].astype(np.float64)
            for mark in marks:
                near(centre(values, (scale, scale), (frame.x, frame.y), mark), mark)


def check_rgb_tiff(path: Path, frame: BoxPx, mpp: float, marks: list[BoxPx]) -> None:
    with openslide.OpenSlide(path) as viewer:
        scale = float(viewer.properties["openslide.mpp-x"]) / mpp
        picture = viewer.read_region((0, 0), 0, viewer.dimensions).convert("RGB")
    viridis = np.round(mpl.colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * 255)
    rgb = np.asarray(picture).copy()
    rgb[(rgb == 255).all(axis=2)] = viridis[0]  # white: no data
    values = values_of(rgb, viridis.astype(np.uint8))
    for mark in marks:
        near(centre(values, (scale, scale), (frame.x, frame.y), mark), mark)


def check_png(path: Path, record: dict[str, Any], frame: BoxPx, marks: list[BoxPx]) -> None:
    """On bare grey the colours tell the values, in the box that the record states."""
    with Image.open(path) as picture:
        x, y, width, height = record["files"][path.name]["picture_px"]
        rgb = np.asarray(picture.convert("RGB"))[y : y + height, x : x + width]
    shares_of = colourize(
        np.linspace(0, 1, 256, dtype=np.float32)[None], ColourScale(1.0, "", "viridis", 0.04)
    )
    values = values_of(rgb, over(np.full((1, 256, 3), GREY, np.uint8), shares_of)[0])
    # the last map pixels may reach beyond the frame
    size = np.ceil(np.array([frame.width, frame.height]) / record["map"]["scale_px"] - 1e-6)
    scale = size * record["map"]["scale_px"] / (width, height)
    for mark in marks:
        near(centre(values, (scale[0], scale[1]), (frame.x, frame.y), mark, margin=120), mark)


def boxes_geojson(path: Path, record: dict[str, Any]) -> tuple[Values, list[Any]]:
    features = json.loads(gzip.decompress(path.read_bytes()))["features"]
    shift = np.array(record["coordinates"]["offset_px"] * 2)
    kinds: dict[str, list[Any]] = {"tile": [], "annotation": []}
    for feature in features:
        kinds[feature["properties"]["objectType"]].append(
            shapely.geometry.shape(feature["geometry"])
        )
    tiles = np.array([tile.bounds for tile in kinds["tile"]]) + shift
    return tiles, [np.array(region.bounds) + shift for region in kinds["annotation"]]


def whole_cells(grid: PatchGrid) -> Values:
    """Exact boxes of one step in the middle of patches; the outermost reach their patch's edge."""
    inset = (grid.patch_size_px - grid.step_px) * grid.scale / 2
    index = grid.all_indices()
    low = grid.exact_origins_px(index) + inset
    boxes = np.concatenate([low, low + grid.step_px * grid.scale], axis=1)
    last = np.array([grid.n_cols, grid.n_rows]) - 1
    boxes[:, :2] -= inset * (index == 0)
    boxes[:, 2:] += inset * (index == last)
    return np.asarray(boxes)


def cells(grid: PatchGrid, frame: BoxPx) -> Values:
    """The cells cut to the frame."""
    boxes = whole_cells(grid)
    return np.asarray(np.clip(boxes, [frame.x, frame.y] * 2, [frame.right, frame.bottom] * 2))


def check_tiles(out: Path, record: dict[str, Any], grid: PatchGrid, frame: BoxPx) -> None:
    exact = cells(grid, frame)
    tiles, _ = boxes_geojson(out / "S1.geojson.gz", record)
    kept = (exact[:, 2] - exact[:, 0] > 1) & (exact[:, 3] - exact[:, 1] > 1)
    assert len(tiles) >= kept.sum()
    if kept.all():
        assert np.abs(tiles - exact).max() <= 0.5
    with (out / "S1.csv").open() as stream:
        rows = [[float(row[name]) for name in ("minx", "miny", "width", "height")]
                for row in csv.DictReader(stream)]  # fmt: skip
    patches = grid.exact_origins_px(grid.all_indices())
    assert np.abs(np.array(rows)[:, :2] - patches).max() <= 0.5
    assert np.abs(np.array(rows)[:, 2:] - grid.patch_size_level0_px).max() <= 1
    connection = sqlite3.connect(out / "S1.db")
    found = connection.execute("SELECT min_x, min_y, max_x, max_y FROM rtree ORDER BY id")
    stored = np.array(found.fetchall())
    connection.close()
    assert np.abs(stored[:, :2] - whole_cells(grid)[:, :2]).max() <= 0.5 + 1e-2
    # the tile picture: the middle of its pixel is the middle of the tile
    x, y, width, height = record["files"]["S1.tiles.png"]["region_px"]
    with Image.open(out / "S1.tiles.png") as picture:
        columns, rows_ = picture.size
    offset = record["coordinates"]["offset_px"]
    index = grid.all_indices()
    middles = np.stack(
        [x + offset[0] + (index[:, 0] + 0.5) * width / columns,
         y + offset[1] + (index[:, 1] + 0.5) * height / rows_], axis=1)  # fmt: skip
    assert np.abs(middles - (patches + grid.patch_size_level0_px / 2)).max() <= 0.5


def check_regions(out: Path, record: dict[str, Any], marks: list[BoxPx]) -> None:
    _, regions = boxes_geojson(out / "S1.geojson.gz", record)
    assert len(regions) == len(marks)
    half = record["map"]["scale_px"] / 2 + 1
    for mark in marks:
        wanted = np.array([mark.x, mark.y, mark.right, mark.bottom])
        assert min(np.abs(region - wanted).max() for region in regions) <= half


def check_everything(
    folder: Path, grid: PatchGrid, frame: BoxPx, mpp: float, map_mpp: float | None, **slide: Any
) -> dict[str, Any]:
    """Plant, stitch, export, and look for the marks in every file; returns the record."""
    marks = planted(frame)
    store = marked_store(folder / "s.zarr", grid, marks, mpp=mpp, **slide)
    for ngff in ("0.4", "0.5"):
        config = StitchConfig(mpp=map_mpp, weighting="none", ngff=ngff)
        stitch_slide(store, folder / f"m{ngff}.ome.zarr", config)
        check_ngff(folder / f"m{ngff}.ome.zarr", frame, mpp, marks)
    out = folder / "o"
    export = ExportConfig(
        formats=(*RASTERS, *TILES), vmax=1.0, drawn="saliency", png_max_px=4096,
        region_threshold=0.5, region_min_probability=0, min_region_um2=0, region_mpp=0.01,
    )  # fmt: skip
    export_slide(folder / "m0.5.ome.zarr", store, out, export)
    record: dict[str, Any] = json.loads((out / "S1.json").read_text())
    check_ome_tiff(out / "S1.ome.tiff", frame, mpp, marks)
    check_rgb_tiff(out / "S1.rgb.tiff", frame, mpp, marks)
    check_png(out / "S1.png", record, frame, marks)
    check_tiles(out, record, grid, frame)
    check_regions(out, record, marks)
    return record


def grid_of(
    slide: Path, mpp: float | None, patch_mpp: float, step_px: int
) -> tuple[PatchGrid, BoxPx, SizePx, BoxPx | None, float]:
    with open_slide(slide, mpp=mpp) as opened:
        info = opened.info
    assert info.mpp is not None
    plan = plan_read(info.mpp, info.level_downsamples, patch_mpp)
    grid = plan_grid(info.frame_px, plan, PATCH_PX, step_px)
    return grid, info.frame_px, info.size_px, info.bounds_px, info.mpp


@pytest.mark.real
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("mpp", "patch_mpp", "step_px", "map_mpp"),
                         [(0.499, 0.998, 64, None), (0.2527, 0.9131, 46, 3.1)])  # fmt: skip
def test_marks_on_every_format_are_found_in_every_export(
    tmp_path: Path, data_dir: Path, name: str, mpp: float, patch_mpp: float, step_px: int,
    map_mpp: float | None,
) -> None:  # fmt: skip
    slide = data_dir / "formats" / name
    grid, frame, size, bounds, true_mpp = grid_of(slide, mpp, patch_mpp, step_px)
    record = check_everything(tmp_path, grid, frame, true_mpp, map_mpp, size=size, bounds=bounds)
    assert record["coordinates"]["frame_size_px"] == [frame.width, frame.height]


@pytest.mark.parametrize("step_px", STEPS_PX)
@pytest.mark.parametrize("map_mpp", [None, 2.9])
def test_marks_are_found_at_odd_spacings(
    tmp_path: Path, step_px: int, map_mpp: float | None
) -> None:
    slide = write_marked_slide(tmp_path / "slide.tiff", [], SizePx(4001, 3333), 0.2527)
    grid, frame, size, bounds, mpp = grid_of(slide, None, 0.9131, step_px)
    check_everything(tmp_path, grid, frame, mpp, map_mpp, size=size, bounds=bounds)


@pytest.mark.real
def test_marks_on_a_dicom_slide_are_found_in_its_dicom_objects(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hd = pytest.importorskip("highdicom")
    # Marks lie on glass, too, where a segmentation is 0: asked here is where things are.
    monkeypatch.setattr(examined, "tissue_of", lambda base, _um: np.ones(base.shape[:2], bool))
    slide = data_dir / "formats" / "dicom_wsi"
    grid, frame, size, bounds, mpp = grid_of(slide, None, 0.9131, 46)
    marks = planted(frame)
    store = marked_store(tmp_path / "s.zarr", grid, marks, mpp=mpp, size=size, bounds=bounds)
    stitch_slide(store, tmp_path / "m.ome.zarr", StitchConfig(weighting="none"))
    config = ExportConfig(formats=("dicom",), identified=True, vmax=1.0)
    export_slide(tmp_path / "m.ome.zarr", store, tmp_path / "o", config, slide_path=slide)
    group = hd.ann.annread(tmp_path / "o" / "S1.ann.dcm").get_annotation_groups()[0]
    corners = np.stack(group.get_graphic_data("2D"))
    exact = whole_cells(grid)[:, :2]
    assert np.abs(corners[:, 0] - exact).max() <= 0.5 + 1e-2
    saliency = hd.seg.segread(tmp_path / "o" / "S1.seg.dcm")
    matrix = saliency.get_total_pixel_matrix(rescale_fractional=True)[..., 0]
    measures = saliency.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    down, right = (float(one) * 1000 / mpp for one in measures.PixelSpacing)
    for mark in marks:
        near(centre(matrix, (right, down), (0, 0), mark), mark)
