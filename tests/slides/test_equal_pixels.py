"""The fast reader's pixels are OpenSlide's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import zarr

from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides import open_slide

SLIDES = (
    "slides/CMU-1-Small-Region.svs",
    "slides/CMU-1_crop_20x.svs",
    "slides/atlas_gastric_metaplasia_HE_20x.tiff",
    "slides/atlas_granular_cell_tumor_HE_10x.tiff",
    "slides/atlas_granular_cell_tumor_HE_20x.svs",
    "formats/aperio_like.svs",
    "formats/philips_like.tiff",
    "formats/pyramid.ome.tiff",
    "formats/leica_like.scn",
    "formats/mirax_like.mrxs",
    "formats/hamamatsu_like.ndpi",
    "formats/dicom_wsi",
)
FAST = {name for name in SLIDES if name.endswith((".svs", ".tiff"))}


def reference(path: Path, level: int, box: BoxPx) -> np.ndarray:
    """OpenSlide's own pixels over white, from level 0 or from the level's corner.

    Elsewhere on lower levels OpenSlide interpolates between the pixels that it stores.
    """
    with openslide.OpenSlide(path) as slide:
        if level == 0:
            image = slide.read_region((box.x, box.y), 0, (box.width, box.height))
            rgba = np.asarray(image).astype(np.float64)
        else:
            size = (box.right, box.bottom)
            rgba = np.asarray(slide.read_region((0, 0), level, size)).astype(np.float64)
            rgba = rgba[box.y :, box.x :]
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def boxes(width: int, height: int) -> list[BoxPx]:
    """On and off the tile grid, in the middle, at the corner."""
    side = min(600, width, height)
    return [
        BoxPx(0, 0, side, side),
        BoxPx((width - side) // 2 // 256 * 256, (height - side) // 2 // 256 * 256, side, side),
        BoxPx((width - side) // 3, (height - side) * 2 // 3, side, side),
        BoxPx(width - side, height - side, side, side),
    ]


@pytest.mark.real
@pytest.mark.parametrize("name", SLIDES)
def test_level_0_and_the_levels_below_it(data_dir: Path, name: str) -> None:
    path = data_dir / name
    file = sorted(path.iterdir())[0] if path.is_dir() else path
    with open_slide(path) as slide:
        assert slide.info.reader == ("tiff" if name in FAST else "openslide")
        n_openslide = openslide.OpenSlide(file).level_count
        for level, known in enumerate(slide.info.levels[:n_openslide]):
            if level > 0 and max(known.size_px.width, known.size_px.height) > 4096:
                continue  # a region that large is read by OpenSlide in shifted parts
            for box in boxes(known.size_px.width, known.size_px.height):
                if slide.info.bounds_px and level == 0:
                    box = box.shifted(slide.info.bounds_px.x, slide.info.bounds_px.y)
                difference = np.abs(slide.read_level(level, box) - reference(file, level, box))
                assert difference.max() <= 2, (level, box)
                assert difference.mean() < 0.5, (level, box)


@pytest.mark.real
@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_white_beyond_the_edges(data_dir: Path, reader: str) -> None:
    with open_slide(data_dir / "formats/aperio_like.svs", reader=reader) as slide:
        for level, known in enumerate(slide.info.levels):
            width, height = known.size_px.width, known.size_px.height
            whole = slide.read_level(level, BoxPx(-30, -20, width + 60, height + 70))
            assert (whole[:20] == 255).all()
            assert (whole[:, :30] == 255).all()
            assert (whole[20 + height :] == 255).all()
            assert (whole[:, 30 + width :] == 255).all()
            inside = slide.read_level(level, BoxPx(0, 0, width, height))
            assert np.array_equal(whole[20 : 20 + height, 30 : 30 + width], inside)
            far = slide.read_level(level, BoxPx(width + 500, -900, 40, 30))
            assert (far == 255).all()


@pytest.mark.real
def test_transparent_mirax_is_white(data_dir: Path) -> None:
    path = data_dir / "formats/mirax_like.mrxs"
    with openslide.OpenSlide(path) as raw:
        alpha = np.asarray(raw.read_region((0, 0), 0, raw.dimensions))[..., 3]
    assert (alpha == 0).mean() > 0.1
    with open_slide(path) as slide:
        size = slide.info.size_px
        pixels = slide.read_level(0, BoxPx(0, 0, size.width, size.height))
    assert (pixels[alpha == 0] == 255).all()


@pytest.mark.real
def test_the_same_crop_in_every_container(data_dir: Path) -> None:
    def middle(name: str) -> np.ndarray:
        with open_slide(data_dir / "formats" / name) as slide:
            frame = slide.info.frame_px
            return slide.read_level(0, BoxPx(frame.x + 300, frame.y + 200, 700, 600)).astype(int)

    expected = middle("aperio_like.svs")
    for name in ("philips_like.tiff", "pyramid.ome.tiff", "leica_like.scn", "dicom_wsi"):
        assert np.abs(middle(name) - expected).max() <= 2, name


@pytest.mark.real
def test_ome_tiff_has_its_pyramid_and_spacing(data_dir: Path) -> None:
    with open_slide(data_dir / "formats/pyramid.ome.tiff") as slide:
        assert [level.downsample for level in slide.info.levels] == [1, 2, 4, 8]
        assert slide.info.mpp == pytest.approx(0.499)


@pytest.mark.real
def test_ome_zarr(data_dir: Path) -> None:
    path = data_dir / "formats/multiscale.ome.zarr"
    with open_slide(path) as slide:
        assert slide.info.reader == "ngff"
        assert slide.info.mpp == pytest.approx(1.996)
        stored = zarr.open_array(path / "0", mode="r")[:]
        assert np.array_equal(
            slide.read_level(0, BoxPx(0, 0, 640, 512)), np.moveaxis(stored, 0, -1)
        )
        assert slide.read_level(2, BoxPx(100, 100, 200, 200)).shape == (200, 200, 3)


@pytest.mark.real
def test_icc_profile_is_kept_and_not_applied(data_dir: Path) -> None:
    with open_slide(data_dir / "formats/dicom_wsi") as slide:
        profile = slide.icc_profile()
        assert profile is not None
        assert len(profile) == slide.info.icc_profile_bytes


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # tiatoolbox's dependencies warn at import
def test_tiatoolbox_reads_what_it_is_forced_to(data_dir: Path) -> None:
    path = data_dir / "formats/aperio_like.svs"
    box = BoxPx(-10, 500, 300, 200)
    with open_slide(path, reader="tiatoolbox") as slide, open_slide(path) as expected:
        pixels = slide.read_level(0, box).astype(int)
        assert np.abs(pixels - expected.read_level(0, box)).max() <= 2
        assert slide.info.mpp == pytest.approx(0.499)
