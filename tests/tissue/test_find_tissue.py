"""Tissue on drawn slides: pale kept, glass, ink, borders dropped, memory bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideInfo
from pathology_scaat.tissue.mask import TissueConfig, find_tissue, save_tissue_overlay

GLASS = (243, 242, 244)
STAIN = (200, 120, 175)
CONFIG = TissueConfig(mpp=4.0)


class ArraySlide:
    """A slide of one level in memory, 1 µm/px; blocks in ``broken`` cannot be decoded."""

    def __init__(self, pixels: RgbImage, broken: BoxPx | None = None) -> None:
        self.pixels, self.broken = pixels, broken
        height, width = pixels.shape[:2]
        level = LevelInfo(SizePx(width, height), 1.0)
        self.info = SlideInfo("array", "none", (level,), 1.0, "slide")
        self.largest_read = 0

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        assert level == 0
        self.largest_read = max(self.largest_read, box_px.area)
        if self.broken is not None and box_px.intersection(self.broken):
            raise SlideReadError("array", "cannot be decoded")
        return self.pixels[box_px.y : box_px.bottom, box_px.x : box_px.right]

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None: ...

    def __enter__(self) -> ArraySlide:
        return self

    def __exit__(self, *args: object) -> None: ...


def glass(height: int = 800, width: int = 1000) -> RgbImage:
    noise = np.random.default_rng(0).integers(-2, 3, (height, width, 3))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def paint(pixels: RgbImage, box: tuple[int, int, int, int], colour: tuple[int, ...]) -> None:
    top, left, bottom, right = box
    noise = np.random.default_rng(1).integers(-6, 7, (bottom - top, right - left, 3))
    pixels[top:bottom, left:right] = np.clip(np.array(colour) + noise, 0, 255)


def share_in(mask: np.ndarray, box: tuple[int, int, int, int], scale: int = 4) -> float:
    top, left, bottom, right = (v // scale for v in box)
    return float(mask[top:bottom, left:right].mean())


def test_stain_is_found_and_glass_is_not() -> None:
    pixels = glass()
    box = (200, 200, 600, 600)
    paint(pixels, box, STAIN)
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert found.scale_px == 4.0
    assert found.mask.shape == (200, 250)
    assert share_in(found.mask, box) > 0.99
    assert found.tissue_share == pytest.approx(0.2, abs=0.01)
    assert found.flags == ()


@pytest.mark.parametrize("colour", [(236, 224, 234), (232, 226, 240), (240, 228, 226)])
def test_pale_tissue_is_kept(colour: tuple[int, int, int]) -> None:
    pixels = glass()
    dark, pale = (100, 100, 400, 400), (450, 450, 700, 800)
    paint(pixels, dark, (150, 80, 150))
    paint(pixels, pale, colour)
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert share_in(found.mask, dark) > 0.99
    assert share_in(found.mask, pale) > 0.95


@pytest.mark.parametrize(
    "ink",
    [(40, 60, 160), (25, 30, 110), (30, 130, 70), (30, 30, 34), (205, 35, 45), (20, 140, 160)],
)
def test_ink_on_glass_is_dropped(ink: tuple[int, int, int]) -> None:
    pixels = glass()
    box = (200, 200, 600, 600)
    paint(pixels, box, STAIN)
    paint(pixels, (100, 700, 700, 760), ink)
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert share_in(found.mask, box) > 0.98
    assert share_in(found.mask, (90, 690, 710, 770)) == 0
    if max(ink) > 60:
        assert "ink" in found.flags
        kept = find_tissue(ArraySlide(pixels), CONFIG.model_copy(update={"drop_ink": False}))
        assert share_in(kept.mask, (110, 704, 690, 756)) > 0.9


def test_grey_shadows_and_black_borders_are_no_tissue() -> None:
    pixels = glass()
    box = (200, 200, 600, 600)
    paint(pixels, box, STAIN)
    paint(pixels, (0, 0, 60, 1000), (8, 8, 8))
    paint(pixels, (740, 0, 744, 1000), (170, 170, 172))
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert "black-border" in found.flags
    assert not found.mask[:16].any()
    assert not found.mask[-20:].any()
    assert share_in(found.mask, box) > 0.99


def test_specks_go_and_fat_is_filled() -> None:
    pixels = glass()
    paint(pixels, (200, 200, 600, 600), STAIN)
    for row in range(240, 560, 60):
        for col in range(240, 560, 60):
            pixels[row : row + 44, col : col + 44] = GLASS
    paint(pixels, (50, 900, 62, 912), STAIN)
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert share_in(found.mask, (200, 200, 600, 600)) > 0.99
    assert not found.mask[:30, 200:].any()


@pytest.mark.parametrize(
    ("value", "flag"), [(243, "blank-white"), (255, "blank-white"), (0, "blank-black")]
)
def test_blank_slides_give_an_empty_mask(value: int, flag: str) -> None:
    pixels = np.full((300, 400, 3), value, dtype=np.uint8)
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert not found.mask.any()
    assert flag in found.flags
    assert "no-tissue" in found.flags
    assert found.fractions([(0, 0)], 100.0).tolist() == [0.0]


def test_grey_slides_are_judged_by_brightness() -> None:
    pixels = glass()
    pixels[...] = pixels[..., :1]
    pixels[200:600, 200:600] = 140
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert "greyscale" in found.flags
    assert share_in(found.mask, (200, 200, 600, 600)) > 0.99
    assert found.tissue_share == pytest.approx(0.2, abs=0.02)


def test_tissue_from_edge_to_edge_needs_no_glass() -> None:
    pixels = glass()
    paint(pixels, (0, 0, 800, 1000), STAIN)
    found = find_tissue(ArraySlide(pixels), CONFIG)
    assert found.tissue_share > 0.99
    assert "no-glass" in found.flags


def test_what_cannot_be_decoded_counts_as_tissue_so_that_tiling_meets_it() -> None:
    pixels = glass(1600, 1600)
    paint(pixels, (800, 800, 1200, 1200), STAIN)
    broken = BoxPx(300, 300, 100, 100)
    found = find_tissue(ArraySlide(pixels, broken), CONFIG)
    assert "unreadable-area" in found.flags
    assert share_in(found.mask, (300, 300, 400, 400)) == 1
    assert not found.mask[:20].any()
    nothing = find_tissue(ArraySlide(pixels, BoxPx(0, 0, 1600, 1600)), CONFIG)
    assert "unreadable" in nothing.flags
    assert not nothing.mask.any()


def test_a_canvas_above_the_budget_is_sampled() -> None:
    pixels = glass(3000, 3000)
    paint(pixels, (1000, 1000, 2200, 2200), STAIN)
    slide = ArraySlide(pixels)
    found = find_tissue(slide, TissueConfig(mpp=4.0, read_budget_mpx=1.0))
    assert "sampled" in found.flags
    assert slide.largest_read <= 48 * 48
    side = 1200 / found.scale_px
    inner = found.fractions([(1100, 1100)], 900.0)[0]
    assert inner > 0.99
    assert found.mask.sum() < (side + 6) ** 2
    assert found.fractions([(0, 0)], 600.0)[0] == 0


def test_the_longest_side_is_bounded() -> None:
    found = find_tissue(ArraySlide(glass(100, 2000)), TissueConfig(mpp=1.0, max_side_px=256))
    assert max(found.mask.shape) <= 256


def test_the_overlay_is_a_picture_and_the_same_each_time(tmp_path: Path) -> None:
    pixels = glass()
    paint(pixels, (200, 200, 600, 600), STAIN)
    paint(pixels, (100, 700, 700, 760), (40, 60, 160))
    found = find_tissue(ArraySlide(pixels), CONFIG)
    save_tissue_overlay(found, tmp_path / "a.png", {"fingerprint": "f"})
    save_tissue_overlay(found, tmp_path / "b.png", {"fingerprint": "f"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (250, 200)
        assert '"fingerprint": "f"' in picture.text["pathology_scaat"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("slides/CMU-1-Small-Region.svs", 0.35, 0.45),
        ("slides/CMU-1_crop_20x.svs", 0.8, 0.95),
        ("slides/atlas_gastric_metaplasia_HE_20x.tiff", 0.55, 0.66),
        ("slides/atlas_granular_cell_tumor_HE_20x.svs", 0.33, 0.4),
        ("formats/leica_like.scn", 0.6, 0.72),
        ("formats/mirax_like.mrxs", 0.6, 0.72),
        ("broken/blank_white.tiff", 0, 0),
        ("broken/blank_black.tiff", 0, 0),
        ("broken/giant_sparse.tif", 0, 0),
    ],
)
def test_real_slides(data_dir: Path, name: str, low: float, high: float) -> None:
    from pathology_scaat.slides import open_slide

    with open_slide(data_dir / name) as slide:
        found = find_tissue(slide)
    assert low <= found.tissue_share <= high
    assert max(found.mask.shape) <= 4096
    assert "ink" not in found.flags


@pytest.mark.parametrize("kind", ["inverted", "fluorescence"])
def test_pictures_with_a_dark_background_are_told(kind: str, tmp_path: Path) -> None:
    pixels = glass(400, 400)
    paint(pixels, (120, 120, 280, 280), STAIN)
    pixels = 255 - pixels
    if kind == "fluorescence":
        pixels[...] = 4
        paint(pixels, (120, 120, 280, 280), (10, 40, 190))
        paint(pixels, (150, 150, 160, 160), (250, 250, 250))  # saturated dust
    assert "dark-background" in find_tissue(ArraySlide(pixels), CONFIG).flags
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", metadata=None)
    config = TileConfig(mpp=0.5, patch_size_px=64, slide_mpp=0.5)
    notes = tile_slide(TileJob(path, "s", tmp_path / "s.zarr", config)).notes
    assert any(note.startswith("CHECK THE SLIDE: its background is dark") for note in notes)
    assert not any("pen ink" in note for note in notes)


@pytest.mark.parametrize("value", [0, 25])
def test_brightfield_in_a_wide_black_rim_is_not_called_dark(value: int) -> None:
    pixels = np.full((1200, 1200, 3), value, dtype=np.uint8)
    pixels[300:900, 300:900] = glass(600, 600)
    paint(pixels, (350, 350, 700, 700), STAIN)
    flags = find_tissue(ArraySlide(pixels), CONFIG).flags
    assert "black-border" in flags
    assert "dark-background" not in flags
