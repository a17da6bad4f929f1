"""The mask is cleaned as the plain definitions say, and the picture of it can be read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage import morphology

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.block_mean import block_mean
from pathology_scaat.slides.tiles import TileLattice
from pathology_scaat.tissue.ink import pen_coloured
from pathology_scaat.tissue.morphology import closed, outline, without_small
from pathology_scaat.tissue.overlay import paint_overlay, read_written_png, write_png
from pathology_scaat.tissue.segmentation import clean_mask
from pathology_scaat.tissue.thumbnail import _shrink_tiles


def blobs(seed: int, height: int = 90, width: int = 130, share: float = 0.4) -> np.ndarray:
    noise = np.random.default_rng(seed).random((height, width))
    smooth = ndimage.gaussian_filter(noise, 1.0 + seed % 3)
    return smooth < np.quantile(smooth, share)


@given(seed=st.integers(0, 50), area=st.integers(1, 60))
def test_small_components_go(seed: int, area: int) -> None:
    mask = blobs(seed)
    assert np.array_equal(
        without_small(mask, area), morphology.remove_small_objects(mask, max_size=area)
    )


@given(seed=st.integers(0, 50), radius=st.integers(1, 16))
def test_closing_is_by_a_disc(seed: int, radius: int) -> None:
    mask = blobs(seed, share=0.1)
    padded = np.pad(mask, radius + 1)
    near = ndimage.distance_transform_edt(~padded) <= radius
    filled = ndimage.distance_transform_edt(near) > radius
    inner = filled[radius + 1 : -radius - 1, radius + 1 : -radius - 1]
    assert np.array_equal(closed(mask, radius), inner)


@given(seed=st.integers(0, 30))
def test_holes_are_filled_and_dark_areas_left_out(seed: int) -> None:
    mask, dark = blobs(seed), blobs(seed + 100, share=0.1)
    none = np.zeros_like(mask)
    expected = morphology.remove_small_objects(mask, max_size=1)
    expected = morphology.remove_small_holes(expected, max_size=20)
    expected &= ~morphology.remove_small_objects(dark, max_size=20)
    expected = morphology.remove_small_objects(expected, max_size=29)
    got = clean_mask(mask, dark, none, min_area_px=30, max_hole_px=20, close_radius_px=0)
    edge = np.zeros_like(mask)  # lines along the edge may go; everything else is the same
    edge[[0, -1]] = edge[:, [0, -1]] = True
    differs = morphology.reconstruction((got != expected) & edge, got != expected) > 0
    assert np.array_equal(differs, got != expected)


@given(seed=st.integers(0, 30), thickness=st.integers(1, 3))
def test_outlines_lie_inside_or_beside(seed: int, thickness: int) -> None:
    mask = blobs(seed)
    line = mask & ~ndimage.binary_erosion(mask)
    if thickness > 1:
        line = ndimage.binary_dilation(line, iterations=thickness - 1)
    assert np.array_equal(outline(mask, thickness), line)


@given(seed=st.integers(0, 30))
def test_a_pen_colour_needs_squares_of_seeds(seed: int) -> None:
    seeds = blobs(seed, share=0.3)
    core = ndimage.binary_opening(seeds, np.ones((2, 2)))
    core = morphology.remove_small_objects(core, max_size=12)
    assert np.array_equal(pen_coloured(seeds), core)


@given(height=st.integers(1, 40), width=st.integers(1, 40), factor=st.integers(1, 9))
def test_blocks_are_means_rounded_half_up(height: int, width: int, factor: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    got = block_mean(pixels, factor)
    for y in range(got.shape[0]):
        for x in range(got.shape[1]):
            block = pixels[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            expected = np.floor(block.reshape(-1, 3).mean(axis=0) + 0.5)
            assert np.array_equal(got[y, x], expected)


class TiledArray:
    """Tiles of one picture; one is blank, one cannot be decoded."""

    def __init__(self, pixels: np.ndarray, tile: int) -> None:
        self.pixels = pixels
        self._lattice = TileLattice(SizePx(pixels.shape[1], pixels.shape[0]), SizePx(tile, tile))

    def lattice(self, level: int) -> TileLattice:
        return self._lattice

    def read_tile(
        self, level: int, col: int, row: int, scratch: np.ndarray | None = None
    ) -> np.ndarray | None:
        if (col, row) == (0, 1):
            return None
        if (col, row) == (1, 1):
            raise SlideReadError("a slide", "is broken there")
        box = self._lattice.box(col, row)
        return self.pixels[box.y : box.bottom, box.x : box.right]


def test_tiles_shrink_to_the_same_thumbnail_on_any_number_of_threads() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (117, 151, 3), dtype=np.uint8)
    slide = TiledArray(pixels, 32)
    expected = block_mean(pixels, 4)
    expected[8:16, 0:8] = 255
    expected[8:16, 8:16] = 255
    for threads in (1, 3):
        rgb, readable = _shrink_tiles(slide, 0, 4, threads)
        assert np.array_equal(rgb, expected)
        assert not readable[8:16, 8:16].any()
        assert readable.sum() == readable.size - 64


def test_the_picture_is_what_was_painted(tmp_path: Path) -> None:
    thumbnail = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    mask = blobs(3)
    ink = np.zeros_like(mask)
    picture = paint_overlay(thumbnail, mask, ink)
    inner = mask & ~outline(mask, 1)
    assert np.array_equal(picture[inner], thumbnail[inner])
    paled = (thumbnail[~mask].astype(int) + 510) // 3
    assert np.array_equal(picture[~mask], paled)
    write_png(picture, tmp_path / "a.png", {"name": "ü"})
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert np.array_equal(np.asarray(image), picture)
        assert image.text == {"pathology_scaat": '{"name": "\\u00fc"}'}


def test_a_written_picture_is_read_again_and_no_other(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    write_png(picture, path, {})
    Image.fromarray(picture).save(other)
    data = path.read_bytes()
    assert np.array_equal(read_written_png(data), picture)
    assert read_written_png(other.read_bytes()) is None
    for at in (3, 20, len(data) // 2, len(data) - 3):
        assert read_written_png(data[:at]) is None
        assert read_written_png(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
