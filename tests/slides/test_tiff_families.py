"""TIFF flavours that the real slides do not cover, made here and read beside OpenSlide."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from served import served

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.tiff_colours import rgb_from_ycbcr

SIDE = 256
APERIO = "Aperio Image Library v11.2.1 \r\n512x512 (256x256) J2K/KDU Q=70|AppMag = 20|MPP = 0.5"


def picture() -> np.ndarray:
    """Smooth colours, so that lossy codecs have nothing to lose."""
    y, x = np.mgrid[0 : 2 * SIDE, 0 : 2 * SIDE]
    channels = [x / 2, y / 2, 128 + 100 * np.sin((x + y) / 80)]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def ycbcr(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb.astype(float), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
    return np.stack(planes, axis=-1).round().clip(0, 255).astype(np.uint8)


def tiles(image: np.ndarray, encode: object) -> list[bytes]:
    return [
        encode(np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE]))  # type: ignore[operator]
        for y in range(0, image.shape[0], SIDE)
        for x in range(0, image.shape[1], SIDE)
    ]


def write(path: Path, data: list[bytes], compression: int, **options: object) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(data),
            shape=(2 * SIDE, 2 * SIDE, 3),
            dtype=np.uint8,
            tile=(SIDE, SIDE),
            compression=compression,
            metadata=None,
            **options,  # type: ignore[arg-type]
        )


def agree(path: Path, expected: np.ndarray | None = None, tolerance: int = 2) -> None:
    box = BoxPx(-7, 100, 400, 300)
    with open_slide(path) as slide, open_slide(path, reader="openslide") as reference:
        assert slide.info.reader == "tiff"
        pixels = slide.read_level(0, box).astype(int)
        assert np.abs(pixels - reference.read_level(0, box)).max() <= 2
        if expected is not None:
            whole = slide.read_level(0, BoxPx(0, 0, 2 * SIDE, 2 * SIDE)).astype(int)
            assert np.abs(whole - expected).max() <= tolerance


def jpeg2000(image: np.ndarray) -> bytes:
    # No colour transform inside: what the planes mean is said by the TIFF tag.
    return imagecodecs.jpeg2k_encode(image, codecformat="j2k", mct=False, reversible=True)


def test_aperio_jpeg2000_rgb(tmp_path: Path) -> None:
    path = tmp_path / "rgb.svs"
    write(path, tiles(picture(), jpeg2000), 33005, photometric="rgb", description=APERIO)
    agree(path, picture(), 0)


def test_aperio_jpeg2000_ycbcr(tmp_path: Path) -> None:
    path = tmp_path / "ycbcr.svs"
    write(path, tiles(ycbcr(picture()), jpeg2000), 33003, photometric="rgb", description=APERIO)
    agree(path, picture(), 2)


@pytest.mark.parametrize("compression", ["zlib", "lzw", None])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_generic_lossless(tmp_path: Path, compression: str | None, bigtiff: bool) -> None:
    path = tmp_path / "plain.tiff"
    tifffile.imwrite(
        path, picture(), tile=(SIDE, SIDE), photometric="rgb", compression=compression,
        predictor=compression is not None, bigtiff=bigtiff, metadata=None,
        resolution=(20_000, 20_000), resolutionunit="centimeter",
    )  # fmt: skip
    agree(path, picture(), 0)
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx(0.5)


def test_ycbcr_is_the_jfif_transform() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).astype(np.uint8)[0]
    assert np.abs(rgb_from_ycbcr(ycbcr(grid)).astype(int) - grid).max() <= 2


def test_grey_is_refused(tmp_path: Path) -> None:
    """Grey is no brightfield RGB: a fluorescence channel looks just so."""
    path = tmp_path / "grey.tiff"
    tifffile.imwrite(path, picture()[..., 0], tile=(SIDE, SIDE), compression="zlib", metadata=None)
    with pytest.raises(SlideOpenError, match="is grey"):
        open_slide(path)


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.tiff"
    tifffile.imwrite(path, picture().astype(np.uint16), tile=(SIDE, SIDE), photometric="rgb")
    with pytest.raises(SlideOpenError, match="16 bits per channel"):
        open_slide(path)


@pytest.mark.parametrize("rows", [1, 7, 100, 512])
@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
def test_strips_are_read(tmp_path: Path, rows: int, compression: str | None) -> None:
    path = tmp_path / "strips.tiff"
    tifffile.imwrite(
        path, picture(), photometric="rgb", metadata=None, rowsperstrip=rows,
        compression=compression, compressionargs={"level": 95} if compression == "jpeg" else None,
    )  # fmt: skip
    assert openslide.OpenSlide.detect_format(path) is None
    box = BoxPx(-9, 130, 300, 400)
    with open_slide(path) as slide:
        whole = slide.read_level(0, BoxPx(0, 0, 2 * SIDE, 2 * SIDE)).astype(int)
        part = slide.read_level(0, box)
    assert np.abs(whole - picture()).max() <= (8 if compression == "jpeg" else 0)
    assert (part[:, :9] == 255).all()
    assert np.array_equal(part[:382, 9:], whole[130:, :291])
    assert (part[382:] == 255).all()


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("µm", 0.25),
        ("um", 0.25),
        ("micron", 0.25),
        ("nm", 250.0),
        ("mm", 0.00025),
        ("inch", 0.25 / 25_400),
        ("angstrom", 2_500.0),
    ],
)
def test_ome_units(tmp_path: Path, unit: str, size: float) -> None:
    path = tmp_path / "unit.ome.tif"
    tifffile.imwrite(
        path, picture(), tile=(SIDE, SIDE), photometric="rgb",
        metadata={"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit,
                  "PhysicalSizeY": size, "PhysicalSizeYUnit": unit},
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert slide.info.mpp == pytest.approx(0.25)


def test_missing_tiles_are_white(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tiff"
    data = tiles(picture(), lambda tile: tile.tobytes())
    data[1] = b""
    write(path, data, 1, photometric="rgb")
    with open_slide(path) as slide:
        pixels = slide.read_level(0, BoxPx(0, 0, 2 * SIDE, 2 * SIDE))
    assert (pixels[:SIDE, SIDE:] == 255).all()
    assert np.array_equal(pixels[:SIDE, :SIDE], picture()[:SIDE, :SIDE])


def test_an_aperio_file_without_a_thumbnail_has_all_its_levels(tmp_path: Path) -> None:
    path = tmp_path / "plain.svs"
    with tifffile.TiffWriter(path) as writer:
        for level in (picture(), picture()[::2, ::2]):
            writer.write(
                np.ascontiguousarray(level), tile=(SIDE, SIDE), photometric="rgb",
                compression="jpeg", compressionargs={"level": 95}, description=APERIO,
                metadata=None,
            )  # fmt: skip
    with open_slide(path) as slide:
        assert [level.size_px.width for level in slide.info.levels] == [512, 256]
    agree(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (picture()[..., 0], "is grey"),
        (picture().astype(np.uint16), "16 bits per channel"),
        (picture().astype(np.int8), "signed"),
    ],
)
def test_aperio_files_that_are_no_rgb(tmp_path: Path, data: np.ndarray, words: str) -> None:
    """OpenSlide opens some of these, and makes 8-bit RGB of them without a word."""
    path = tmp_path / "slide.svs"
    tifffile.imwrite(
        path, data, tile=(SIDE, SIDE), metadata=None, description=APERIO,
        photometric="rgb" if data.ndim == 3 else "minisblack",
    )  # fmt: skip
    with pytest.raises(SlideOpenError, match=words):
        open_slide(path)
    with served(path) as url, pytest.raises(SlideOpenError, match=words):
        open_slide(url)


def test_a_small_reduced_page_is_a_thumbnail(tmp_path: Path) -> None:
    """It is no level, since its shape differs; and no other slide."""
    path = tmp_path / "thumb.tiff"
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture(), tile=(SIDE, SIDE), photometric="rgb", metadata=None)
        writer.write(
            np.ascontiguousarray(picture()[:100, :50]), photometric="rgb", metadata=None,
            subfiletype=1,
        )  # fmt: skip
    with open_slide(path) as slide:
        assert len(slide.info.levels) == 1
        assert any("a thumbnail of 50 x 100 px" in note for note in slide.info.notes)


def test_a_compressed_strip_beyond_memory_is_refused_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strip is decoded whole; rows that are not compressed are read band by band."""
    from pathology_scaat.slides import tiff_levels

    monkeypatch.setattr(tiff_levels, "MAX_STRIP_PX", 1 << 16)
    path = tmp_path / "strip.tiff"
    options = {"photometric": "rgb", "metadata": None, "rowsperstrip": 2 * SIDE}
    tifffile.imwrite(path, picture(), compression="zlib", **options)
    with pytest.raises(SlideOpenError, match=r"one strip of 512 x 512 px") as caught:
        open_slide(path)
    assert "damaged" not in str(caught.value)
    tifffile.imwrite(path, picture(), **options)
    with open_slide(path) as slide:
        assert slide.info.levels[0].tile_size_px == SizePx(512, 64)
        assert np.array_equal(
            slide.read_level(0, BoxPx(100, 60, 50, 70)), picture()[60:130, 100:150]
        )
