"""Tiles are the slide's pixels at their place, in every format, at every level."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn_slides import draw_slide
from map_stores import make_saliency_store
from PIL import Image

from pathology_scaat.export import ExportConfig
from pathology_scaat.export.context import Context
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.review import slide_tiles
from pathology_scaat.review.access import Access
from pathology_scaat.review.map_values import LEVELS, NO_TISSUE, UNJUDGED, encode_values
from pathology_scaat.review.reviewed_run import Review
from pathology_scaat.review.slide_tiles import MAX_OPEN_SLIDES, TILE_PX, SlideCache, TileServer
from pathology_scaat.slides import open_slide
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide
from pathology_scaat.stitching.schema import COUNT_CHANNEL, UNLIKE_CHANNEL
from pathology_scaat.stitching.source import SaliencySource

FORMATS = [
    "aperio_like.svs", "hamamatsu_like.ndpi", "leica_like.scn", "mirax_like.mrxs",
    "philips_like.tiff", "pyramid.ome.tiff", "multiscale.ome.zarr", "dicom_wsi",
]  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("name", FORMATS)
def test_the_finest_tiles_are_level_0_of_the_frame(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / "formats" / name) as slide:
        server = TileServer(slide)
        frame = server.frame_px
        rng = np.random.default_rng(0)
        for _ in range(4):
            col = int(rng.integers(0, -(-frame.width // TILE_PX)))
            row = int(rng.integers(0, -(-frame.height // TILE_PX)))
            tile = server.tile(server.max_level, col, row)
            assert tile is not None
            box = BoxPx(
                frame.x + col * TILE_PX, frame.y + row * TILE_PX, tile.shape[1], tile.shape[0]
            )
            assert np.array_equal(tile, slide.read_level(0, box))
        assert server.tile(server.max_level, -(-frame.width // TILE_PX), 0) is None
        assert server.tile(server.max_level + 1, 0, 0) is None


@pytest.mark.real
@pytest.mark.parametrize("name", FORMATS)
def test_coarser_tiles_show_the_same_area(data_dir: Path, name: str) -> None:
    """Each coarse tile against an area average of level 0: by correlation of shifted copies."""
    with open_slide(data_dir / "formats" / name) as slide:
        server = TileServer(slide)
        frame = server.frame_px
        for steps in (1, 2):
            scale = 1 << steps
            side = min(TILE_PX, frame.width // scale, frame.height // scale) // 4 * 4
            tile = server.tile(server.max_level - steps, 0, 0)
            assert tile is not None
            whole = slide.read_level(0, BoxPx(frame.x, frame.y, side * scale, side * scale))
            mean = whole.astype(float).mean(2).reshape(side, scale, side, scale).mean((1, 3))
            shown = tile[:side, :side].astype(float).mean(2)
            assert best_shift(shown, mean) == (0, 0)


def best_shift(shown: np.ndarray, expected: np.ndarray, reach: int = 2) -> tuple[int, int]:
    inner = slice(reach, -reach)
    errors = {
        (dy, dx): np.abs(
            np.roll(shown, (dy, dx), (0, 1))[inner, inner] - expected[inner, inner]
        ).mean()
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    }
    return min(errors, key=lambda shift: errors[shift])


def test_a_shelf_keeps_few_slides_open_and_serves_all(tmp_path: Path) -> None:
    for number in range(MAX_OPEN_SLIDES + 2):
        draw_slide(tmp_path / f"{number}.tiff", number, side_px=256)
    cache = SlideCache({str(n): (tmp_path / f"{n}.tiff", None) for n in range(MAX_OPEN_SLIDES + 2)})
    for _ in range(2):
        for number in range(MAX_OPEN_SLIDES + 2):
            data = cache.jpeg(str(number), 8, 0, 0)
            assert data is not None
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.size == (256, 256)
                assert not picture.info.get("exif")
    assert len(cache._open) <= MAX_OPEN_SLIDES
    cache.close()


def test_a_slide_that_is_read_is_not_closed(tmp_path: Path) -> None:
    """Others are opened meanwhile: a closed slide's tile would come as damaged."""
    names = [str(n) for n in range(MAX_OPEN_SLIDES + 2)]
    for number in range(len(names)):
        draw_slide(tmp_path / f"{number}.tiff", number, side_px=256)
    cache = SlideCache({n: (tmp_path / f"{n}.tiff", None) for n in names})
    with cache.server("0") as first:
        expected = first.tile(8, 0, 0)
        for name in names[1:]:
            cache.jpeg(name, 8, 0, 0)
        assert np.array_equal(first.tile(8, 0, 0), expected)
    assert len(cache._open) <= MAX_OPEN_SLIDES
    cache.close()


def test_a_slide_without_coarse_levels_is_read_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_slide(tmp_path / "a.tiff", 1, side_px=1000)
    with open_slide(tmp_path / "a.tiff") as slide:
        server = TileServer(slide)
        levels = [server.tile(level, 0, 0) for level in (6, 8, 9)]
        monkeypatch.setattr(slide_tiles, "MAX_READ_PX", 30_000)
        largest = 0
        read = slide.read_level

        def watched(level: int, box: BoxPx) -> np.ndarray:
            nonlocal largest
            largest = max(largest, box.width * box.height)
            return read(level, box)

        monkeypatch.setattr(slide, "read_level", watched)
        for level, expected in zip((6, 8, 9), levels, strict=True):
            assert np.array_equal(server.tile(level, 0, 0), expected)
        assert largest < 36_000


def test_values_of_a_map_survive_their_picture() -> None:
    values = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    values[3:5, 7] = np.nan
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    with Image.open(io.BytesIO(encode_values(values, low, high))) as picture:
        pixels = np.asarray(picture).astype(int)
    number = pixels[..., 0] * 256 + pixels[..., 1]
    back = np.where(pixels[..., 2] > 127, low + number / LEVELS * (high - low), np.nan)
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert np.nanmax(np.abs(back - values)) <= (high - low) / LEVELS


def test_the_browsers_map_has_colour_where_the_pictures_have(tmp_path: Path) -> None:
    """Glass beside tissue and tissue that is not judged have none, whatever the model says."""
    rng = np.random.default_rng(0)
    image = np.full((640, 768, 3), 245, np.uint8)
    image[:, :400] = rng.integers((150, 40, 120), (230, 120, 200), (640, 400, 3))
    slide_path = tmp_path / "half.tiff"
    tifffile.imwrite(
        slide_path, image, tile=(256, 256), photometric="rgb", resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    store = make_saliency_store(
        tmp_path / "s.zarr", PatchGrid(0.0, 0.0, 1.0, 64, 64, 12, 10), size=SizePx(768, 640),
        unlike=np.repeat([0.0, 100.0], 60), probability=[0.0, 1.0],
    )  # fmt: skip
    path = tmp_path / "maps" / "S1.ome.zarr"
    stitch_slide(store, path, StitchConfig(mpp=1.0))
    review = Review(tmp_path, {"S1": (slide_path, 0.5)}, Access(0))
    try:
        names = SlideMap(path).channel_names
        context = Context(
            SlideMap(path), SaliencySource(store), ExportConfig(), slide_path, 0.5, None
        )
        with closing(context):
            seen = context.pictures.examined
        blue = {}
        for number, name in enumerate(names):
            with Image.open(io.BytesIO(review.map_picture("S1", number).png)) as picture:
                blue[name] = np.asarray(picture)[..., 2]
    finally:
        review.close()
    drawn = blue["probability: tumour"]
    zoom = len(seen.looked_at) // len(drawn)
    looked, unlike = (
        m[zoom // 2 :: zoom, zoom // 2 :: zoom] for m in (seen.looked_at, seen.unlike)
    )
    assert np.array_equal(drawn == 255, looked & ~unlike)
    assert np.array_equal(drawn == UNJUDGED, unlike)
    assert np.array_equal(drawn == NO_TISSUE, ~looked)
    assert 0.4 < looked.mean() < 0.6
    assert 0.4 < unlike.sum() / looked.sum() < 0.6
    assert np.array_equal(blue["saliency"], drawn)
    assert (blue[UNLIKE_CHANNEL] != UNJUDGED).all()  # how unlike is said where it is, in colour
    assert (blue[COUNT_CHANNEL] == 255).all()
