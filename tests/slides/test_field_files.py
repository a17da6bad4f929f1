"""Files of the kinds that public bug reports tell of: read right, or refused for what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathology_scaat.errors import SlideOpenError, SpacingError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides import Slide, open_slide
from pathology_scaat.slides.spacing import require_mpp

pytestmark = pytest.mark.real

PICTURE_MEAN = (179.5, 118.1, 157.6)
"""Mean red, green and blue of the picture that most of these files hold."""


@pytest.fixture
def field(data_dir: Path) -> Path:
    folder = data_dir / "field"
    if not folder.is_dir():
        pytest.skip("the files of the field cases are not here")
    return folder


def mean_rgb(slide: Slide) -> np.ndarray:
    box = slide.info.frame_px
    part = BoxPx(box.x, box.y, min(box.width, 768), min(box.height, 512))
    return slide.read_level(0, part).mean(axis=(0, 1))


@pytest.mark.parametrize(
    "name",
    [
        "readable_tiffs_called_damaged/zstd.tif",
        "readable_tiffs_called_damaged/jpeg2000.tif",
        "readable_tiffs_called_damaged/jpegxl.tif",
        "readable_tiffs_called_damaged/jp2k_33005.tif",
        "strips_not_named/strips.ome.tif",
        "strips_not_named/imagej.tif",
        "rgb_or_fluorescence_as_grey_planes/he_three_grey_planes.ome.tif",
        "ome_tiff_several_images/macro_first.ome.tif",
        "tiff_ycbcr_without_jpeg/ycbcr_deflate.tif",
    ],
)
def test_read_right(field: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with open_slide(field / name) as slide:
        assert np.abs(mean_rgb(slide) - PICTURE_MEAN).max() < 0.5
        assert slide.info.mpp == pytest.approx(0.5, rel=0.01)
        assert (slide.info.size_px.width, slide.info.size_px.height) == (768, 512)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("int8_sentence/int8.tif", "signed 8-bit"),
        ("rgb_or_fluorescence_as_grey_planes/fluorescence_4_channels.ome.tif", "DAPI, CD3, CD8"),
        ("rgb_or_fluorescence_as_grey_planes/fluorescence_pages.qptiff", "3 grey images"),
        ("ome_zarr_channels_taken_for_rgb/fluorescence.ome.zarr", "DAPI, CD3, CD8"),
    ],
)
def test_refused_for_what_it_is(field: Path, name: str, words: str) -> None:
    with pytest.raises(SlideOpenError, match=words) as caught:
        open_slide(field / name)
    assert "damaged" not in str(caught.value)
    assert "copy" not in str(caught.value)


def test_aperio_33003_with_chroma_of_half_width(field: Path) -> None:
    folder = field / "svs_jp2k_33003_chroma422"
    expected = tifffile.imread(folder / "expected_rgb.tif").astype(int)
    with open_slide(folder / "slide.svs") as slide:
        pixels = slide.read_level(0, BoxPx(0, 0, 512, 512)).astype(int)
    assert np.abs(pixels - expected).mean() < 1


def test_the_layout_of_bioformats2raw(field: Path) -> None:
    with open_slide(field / "ome_zarr_of_bioformats2raw/v04.ome.zarr") as slide:
        assert slide.info.mpp == pytest.approx(0.5)
        assert np.abs(mean_rgb(slide) - PICTURE_MEAN).max() < 0.5


def test_a_print_resolution_is_not_believed(field: Path) -> None:
    folder = field / "tiff_resolution_of_a_printer"
    with open_slide(folder / "300dpi.tif") as slide, pytest.raises(SpacingError) as caught:
        require_mpp(slide.info, "300dpi.tif")
    assert "84.7 µm/px, which is a print resolution (300 dpi)" in str(caught.value)
    assert "--slide-mpp" in str(caught.value)
    with open_slide(folder / "per_mm_written_as_per_cm.tif") as slide:
        assert any("CHECK THE µm/px" in note for note in slide.info.notes)


def test_negative_bounds_keep_their_origin(field: Path) -> None:
    with open_slide(field / "negative_bounds_shift/negative_bounds.scn") as slide:
        assert slide.info.bounds_px == BoxPx(-100, 40_080, 2_560, 2_048)
        with tifffile.TiffFile(field / "negative_bounds_shift/negative_bounds.scn") as tiff:
            own = tiff.pages[1].asarray()
        pixels = slide.read_level(0, BoxPx(-100, 40_080, 700, 500))
        assert np.array_equal(pixels, own[:500, :700])
