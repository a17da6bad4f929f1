"""Boxes anywhere, on every level of every format, are what OpenSlide has there."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import openslide
import pytest
from drawn_scn import HEIGHT, LEVELS, WIDTH, Area, picture, write_scn
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.slides import Slide, open_slide
from pathology_scaat.slides.openslide_reader import over_white
from pathology_scaat.slides.tiles import as_tiled

FORMATS = (
    "aperio_like.svs", "dicom_wsi", "hamamatsu_like.ndpi", "leica_like.scn", "mirax_like.mrxs",
    "philips_like.tiff", "pyramid.ome.tiff",
)  # fmt: skip
STEPS = 25


def walk(rng: np.random.Generator, area: BoxPx) -> list[BoxPx]:
    """Boxes in, around and across a box of level pixels."""
    reach = 150
    return [
        BoxPx(
            area.x + int(rng.integers(-reach, area.width + reach)),
            area.y + int(rng.integers(-reach, area.height + reach)),
            *(int(n) for n in rng.integers(1, 300, 2)),
        )
        for _ in range(STEPS)
    ]


def part_of(whole: np.ndarray, area: BoxPx, box: BoxPx) -> np.ndarray:
    """A box out of an area's pixels; white beside them."""
    out = np.full((box.height, box.width, 3), 255, dtype=np.uint8)
    common = box.intersection(area)
    if common is not None:
        x, y = common.x - area.x, common.y - area.y
        out[common.y - box.y :, common.x - box.x :][: common.height, : common.width] = whole[
            y : y + common.height, x : x + common.width
        ]
    return out


def compare(slide: Slide, level: int, area: BoxPx, whole: np.ndarray, tolerance: int) -> None:
    for box in walk(np.random.default_rng(level), area):
        difference = np.abs(
            slide.read_level(level, box).astype(int) - part_of(whole, area, box).astype(int)
        )
        assert difference.max() <= tolerance, (level, box)


@pytest.mark.real
@pytest.mark.parametrize("reader", ["auto", "openslide"])
@pytest.mark.parametrize("name", FORMATS)
def test_random_walk(data_dir: Path, name: str, reader: str) -> None:
    """The reference is one region of the whole scanned area, as OpenSlide gives it."""
    path = data_dir / "formats" / name
    file = min(path.iterdir()) if path.is_dir() else path
    with open_slide(path, reader=reader) as slide, openslide.OpenSlide(file) as other:
        frame = slide.info.frame_px
        for level in range(min(other.level_count, len(slide.info.levels))):
            scale = slide.info.levels[level].downsample
            x, y = math.trunc(frame.x / scale), math.trunc(frame.y / scale)
            size = math.ceil(frame.width / scale), math.ceil(frame.height / scale)
            whole = over_white(other.read_region((frame.x, frame.y), level, size))
            compare(slide, level, BoxPx(x, y, *size), whole, 3)


CORNERS = st.integers(-63, 600)
"""OpenSlide gives no tile that lies beside the canvas as a whole; they are of 64 px."""


@settings(max_examples=10)
@given(x=CORNERS, y=CORNERS)
def test_a_scanned_area_anywhere(tmp_path_factory: pytest.TempPathFactory, x: int, y: int) -> None:
    """Left of and above the canvas too: the pixels are the file's own, whatever the box."""
    path = tmp_path_factory.mktemp("scn") / "slide.scn"
    write_scn(path, Area(x, y))
    with open_slide(path) as slide:
        assert slide.info.bounds_px == BoxPx(x, y, WIDTH, HEIGHT)
        for level in range(LEVELS):
            step = 1 << level
            corner = math.trunc(x / step), math.trunc(y / step)
            area = BoxPx(*corner, WIDTH >> level, HEIGHT >> level)
            compare(slide, level, area, picture()[::step, ::step], 0)


def test_two_areas_are_read_as_one_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "two.scn"
    first, second = Area(13, 21), Area(13 + WIDTH + 101, 57)
    write_scn(path, first, second)
    with open_slide(path) as slide:
        assert any("2 scanned areas" in note for note in slide.info.notes)
        for level in range(LEVELS):
            step = 1 << level
            box = BoxPx(0, 0, 1200 // step, 500 // step)
            expected = np.full((box.height, box.width, 3), 255, dtype=np.uint8)
            for number, area in enumerate((first, second)):
                own = picture(number)[::step, ::step]
                left, top = area.x_px // step, area.y_px // step
                expected[top : top + own.shape[0], left : left + own.shape[1]] = own
            assert np.array_equal(slide.read_level(level, box), expected)
            for part in walk(np.random.default_rng(level), box):
                found = slide.read_level(level, part)
                assert np.array_equal(found, part_of(expected, box, part))


def test_areas_of_two_objectives_are_refused_for_that(tmp_path: Path) -> None:
    path = tmp_path / "two.scn"
    write_scn(path, Area(13, 21), Area(700, 57, objective=40))
    with pytest.raises(SlideOpenError, match="different objectives"):
        open_slide(path)


@pytest.mark.parametrize("mpp", [0.5, 0.6])
def test_patches_of_an_area_that_begins_beside_the_canvas(tmp_path: Path, mpp: float) -> None:
    """All of it is tiled, and origins keep the frame that QuPath shows."""
    path = tmp_path / "slide.scn"
    write_scn(path, Area(-50, -37))
    with open_slide(path) as slide:
        assert any("left of or above the canvas" in note for note in slide.info.notes)
    config = TileConfig(mpp=mpp, patch_size_px=64, min_tissue=0.0)
    result = tile_slide(TileJob(path, "s", tmp_path / "s.zarr", config))
    store = PatchStore(tmp_path / "s.zarr")
    assert store.meta.slide.bounds_px == BoxPx(-50, -37, WIDTH, HEIGHT)
    assert (store.meta.grid.anchor_x_px, store.meta.grid.anchor_y_px) == (-50, -37)
    assert result.n_patches == store.meta.grid.n_patches
    if mpp == 0.5:
        for patch, (col, row) in zip(store.read(slice(None)), store.grid_index, strict=True):
            own = picture()[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
            assert np.array_equal(patch[: own.shape[0], : own.shape[1]], own)
    with open_slide(path) as slide:
        tiled = as_tiled(slide)
        assert np.array_equal(tiled.read_tile(0, 0, 0)[:HEIGHT], picture())
