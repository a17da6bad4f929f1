"""Colours of TIFF, in every combination that can be written, against the array that was written.

OpenSlide is the second witness where it opens the file.
"""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from chroma_jpeg2000 import CODESTREAMS, SIDE, planes
from hypothesis import given, settings
from hypothesis import strategies as st
from served import served

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.tiff_colours import Codestream, YcbcrRule, rgb_from_ycbcr, unpacked

WIDTH, HEIGHT, TILE = 160, 112, 64
LOSSLESS = (
    None, "lzw", "zlib", "packbits", "zstd", "lzma", "jpeg2000", "jpegxl", "webp", "png",
    "jpegxr", "lerc",
)  # fmt: skip
CAN_BE_YCBCR = (None, "lzw", "zlib", "packbits", "zstd", "lzma", "lerc")
CODEC_OPTIONS = {
    "jpeg2000": {"level": 0, "mct": False}, "jpegxl": {"level": 0, "lossless": True},
    "webp": {"level": 100, "lossless": True}, "jpegxr": {"level": 100},
}  # fmt: skip
OPENSLIDE_READS = (None, "lzw", "zlib", "packbits", "jpeg")


def picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Smooth colours far from grey, so that a wrong matrix or order is seen at once."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [200 - x * 0.5, 90 + y * 0.7, 140 + 60 * np.sin((x + y) / 60)]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def ycbcr(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb.astype(float), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    parts = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
    return np.stack(parts, axis=-1).round().clip(0, 255).astype(np.uint8)


def read(path: Path, reader: str = "auto") -> np.ndarray:
    """The whole of level 0, and the same put together from odd boxes."""
    with open_slide(path, reader=reader) as slide:
        size = slide.info.size_px
        whole = slide.read_level(0, BoxPx(0, 0, size.width, size.height))
        corner = slide.read_level(0, BoxPx(-5, -3, size.width // 2, size.height // 2))
        assert np.array_equal(corner[3:, 5:], whole[: corner.shape[0] - 3, : corner.shape[1] - 5])
        assert (corner[:3] == 255).all()
    return whole.astype(int)


def agree(path: Path, expected: np.ndarray, tolerance: float, compression: str | None) -> None:
    pixels = read(path)
    assert np.abs(pixels - expected).max() <= tolerance
    assert np.array_equal(read_by_url(path), pixels)
    if compression in OPENSLIDE_READS and openslide.OpenSlide.detect_format(path):
        assert np.abs(pixels - read(path, "openslide")).max() <= max(tolerance, 3)


def read_by_url(path: Path) -> np.ndarray:
    """The same over HTTP, as any object store is read."""
    with served(path) as url, open_slide(url) as slide:
        size = slide.info.size_px
        pixels = slide.read_level(0, BoxPx(0, 0, size.width, size.height))
    return pixels.astype(int)


@settings(max_examples=120)
@given(
    compression=st.sampled_from(LOSSLESS),
    photometric=st.sampled_from(["rgb", "ycbcr"]),
    planar=st.sampled_from(["contig", "separate"]),
    tiled=st.booleans(),
    alpha=st.booleans(),
    predictor=st.booleans(),
    bigtiff=st.booleans(),
    byteorder=st.sampled_from("<>"),
)
def test_every_lossless_combination(
    tmp_path_factory: pytest.TempPathFactory,
    compression: str | None,
    photometric: str,
    planar: str,
    tiled: bool,
    alpha: bool,
    predictor: bool,
    bigtiff: bool,
    byteorder: str,
) -> None:
    """What was written comes back, or the file is refused in a sentence; nothing between."""
    path = tmp_path_factory.mktemp("colours") / "slide.tif"
    rgb = picture()
    stored = ycbcr(rgb) if photometric == "ycbcr" else rgb
    if alpha and photometric == "rgb":
        stored = np.dstack([stored, np.full(stored.shape[:2], 255, dtype=np.uint8)])
    if planar == "separate":
        stored = np.ascontiguousarray(np.moveaxis(stored, -1, 0))
    options: dict[str, object] = {"subsampling": (1, 1)} if photometric == "ycbcr" else {}
    if predictor and compression in ("lzw", "zlib", "zstd", "lzma"):
        options["predictor"] = True
    try:
        tifffile.imwrite(
            path, stored, photometric=photometric, planarconfig=planar, compression=compression,
            compressionargs=dict(CODEC_OPTIONS.get(compression or "", {})),
            tile=(TILE, TILE) if tiled else None, bigtiff=bigtiff, byteorder=byteorder,
            metadata=None, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **options,
        )  # fmt: skip
    except (ValueError, TypeError, NotImplementedError, RuntimeError):
        return  # no such file can be written
    if photometric == "ycbcr" and compression not in CAN_BE_YCBCR:
        # The tag contradicts what the codec holds, unless that is plain planes.
        try:
            pixels = read(path)
        except SlideOpenError as error:
            pixels = rgb if "which is true cannot be known" in str(error) else None
    else:
        pixels = read(path)
    tolerance = {"rgb": 0, "ycbcr": 2}[photometric] + (2 if compression == "jpegxr" else 0)
    assert np.abs(pixels - rgb).max() <= tolerance
    if (
        compression in OPENSLIDE_READS
        and planar == "contig"
        and not alpha
        and openslide.OpenSlide.detect_format(path)
    ):
        assert np.abs(pixels - read(path, "openslide")).max() <= 3


@pytest.mark.parametrize("compression", CAN_BE_YCBCR)
@pytest.mark.parametrize("tiled", [True, False])
def test_ycbcr_without_jpeg(tmp_path: Path, compression: str | None, tiled: bool) -> None:
    path = tmp_path / "ycbcr.tif"
    tifffile.imwrite(
        path, ycbcr(picture()), photometric="ycbcr", subsampling=(1, 1), compression=compression,
        tile=(TILE, TILE) if tiled else None, metadata=None,
    )  # fmt: skip
    agree(path, picture(), 2, compression)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (4, 2)])
@pytest.mark.parametrize("given_as", ["rgb", "ycbcr", "rgb inside"])
@pytest.mark.parametrize("tiled", [True, False])
def test_jpeg(tmp_path: Path, subsampling: tuple[int, int], given_as: str, tiled: bool) -> None:
    """RGB that the writer converts, YCbCr as it is given, and RGB stored as RGB."""
    path = tmp_path / "jpeg.tif"
    options: dict[str, object] = {"level": 98}
    if given_as == "rgb inside":
        if subsampling != (1, 1):
            pytest.skip("RGB inside JPEG has no chroma to subsample")
        options["outcolorspace"] = "rgb"
    try:
        tifffile.imwrite(
            path, ycbcr(picture()) if given_as == "ycbcr" else picture(), metadata=None,
            photometric="ycbcr" if given_as == "ycbcr" else "rgb", compression="jpeg",
            compressionargs=options, tile=(TILE, TILE) if tiled else None,
            subsampling=None if given_as == "rgb inside" else subsampling,
        )  # fmt: skip
    except (ValueError, imagecodecs.Jpeg8Error):
        pytest.skip("libjpeg writes no such subsampling")
    pixels = read(path)
    difference = np.abs(pixels - picture())  # at the edges of padded tiles JPEG rings
    assert difference.mean() < 2
    assert np.median(difference) <= 2
    assert np.array_equal(read_by_url(path), pixels)
    if openslide.OpenSlide.detect_format(path):
        assert np.abs(pixels - read(path, "openslide")).max() <= 3


@pytest.mark.parametrize(("across", "down"), [(2, 1), (2, 2), (1, 2), (4, 1), (4, 2), (4, 4)])
def test_packed_chroma(across: int, down: int) -> None:
    """Units of luma with one Cb and one Cr, written out pixel by pixel."""
    height, width = 21, 30
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 5 + y, x // across * 7, y // down * 9], axis=-1).astype(np.uint8)
    rows, cols = -(-height // down), -(-width // across)
    padded = np.pad(image, ((0, rows * down - height), (0, cols * across - width), (0, 0)))
    raw = []
    for row in range(rows):
        for col in range(cols):
            for dy in range(down):
                for dx in range(across):
                    raw.append(padded[row * down + dy, col * across + dx, 0])
            raw += list(image[row * down, col * across, 1:])
    found = unpacked(np.array(raw, dtype=np.uint8), height, width, across, down)
    assert np.array_equal(found, image)


@pytest.mark.parametrize("subsampling", [(2, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_subsampled_ycbcr_without_jpeg(
    tmp_path: Path, subsampling: tuple[int, int], compression: int
) -> None:
    """As libtiff packs it; OpenSlide reads these too."""
    path = tmp_path / "packed.tif"
    across, down = subsampling
    y, x = np.mgrid[0:TILE, 0:TILE]
    image = np.stack([60 + x + y, 100 + x // across * across, 180 - y // down * down], axis=-1)
    image = image.astype(np.uint8)
    units = image.reshape(TILE // down, down, TILE // across, across, 3).transpose(0, 2, 1, 3, 4)
    luma = units[..., 0].reshape(*units.shape[:2], -1)
    raw = np.concatenate([luma, units[:, :, 0, 0, 1:]], axis=-1).tobytes()
    encode = {1: lambda data: data.ljust(TILE * TILE * 3, b"\0"), 5: imagecodecs.lzw_encode,
              8: imagecodecs.zlib_encode, 32773: imagecodecs.packbits_encode}  # fmt: skip
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter([encode[compression](raw)]), shape=(TILE, TILE, 3), dtype=np.uint8,
            tile=(TILE, TILE), compression=compression, photometric="ycbcr", metadata=None,
            subsampling=(1, 1),
        )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[530].overwrite(subsampling)
    pixels = read(path)
    assert np.abs(pixels - rgb_from_ycbcr(image)).max() <= 2


def test_coefficients_and_reference_levels() -> None:
    """Studio levels (16 to 235) and the weights of BT.709."""
    rule = YcbcrRule((0.2126, 0.7152, 0.0722), (16.0, 235.0, 128.0, 240.0, 128.0, 240.0))
    grey = np.array([[[16, 128, 128], [235, 128, 128], [126, 128, 128]]], dtype=np.uint8)
    assert rule.rgb(grey).tolist() == [[[0, 0, 0], [255, 255, 255], [128, 128, 128]]]
    # Red by BT.709 at full range.
    full = YcbcrRule((0.2126, 0.7152, 0.0722))
    red = [255 * 0.2126, 128 - 255 * 0.2126 / 1.8556, 255]
    found = full.rgb(np.array([[red]]).round().astype(np.uint8))[0, 0]
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 3
    pixels = picture()
    assert np.array_equal(YcbcrRule().rgb(pixels), rgb_from_ycbcr(pixels))


def test_transparency_is_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([picture(), np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)])
    rgba[:40, :, 3] = 0
    rgba[40:60, :, 3] = 51
    for kind in ("unassalpha", "assocalpha"):
        path = tmp_path / f"{kind}.tif"
        stored = rgba.copy()
        if kind == "assocalpha":
            weights = rgba[..., 3:].astype(float) / 255
            stored[..., :3] = (rgba[..., :3] * weights).round()
        tifffile.imwrite(
            path, stored, photometric="rgb", extrasamples=[kind], tile=(TILE, TILE), metadata=None
        )
        pixels = read(path)
        with open_slide(path) as slide:
            assert any("transparent in it is read as white" in n for n in slide.info.notes)
        assert (pixels[:40] == 255).all()
        assert np.array_equal(pixels[60:], rgba[60:, :, :3])
        mixed = rgba[40:60, :, :3] * 0.2 + 255 * 0.8
        assert np.abs(pixels[40:60] - mixed).max() <= 1.5


# --- JPEG 2000 --------------------------------------------------------------------------

APERIO = "Aperio Image Library v11.2.1 \r\n32x32 (32x32) J2K/YUV16 Q=70|AppMag = 20|MPP = 0.5"


def write_jpeg2000(
    path: Path, data: bytes, compression: int, photometric: str, aperio: bool = True
) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter([data]), shape=(SIDE, SIDE, 3), dtype=np.uint8, tile=(SIDE, SIDE),
            compression=compression, photometric=photometric, metadata=None,
            description=APERIO if aperio else None,
        )  # fmt: skip


@pytest.mark.parametrize("chroma", ["444", "422", "420"])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_aperio_33003(tmp_path: Path, chroma: str, photometric: str) -> None:
    """YCbCr inside, whatever the tag says; OpenSlide agrees."""
    path = tmp_path / "slide.svs"
    write_jpeg2000(path, CODESTREAMS[chroma], 33003, photometric)
    pixels = read(path)
    assert np.abs(pixels - rgb_from_ycbcr(planes())).max() <= 3
    assert np.abs(pixels - read(path, "openslide")).max() <= 3
    assert np.array_equal(read_by_url(path), pixels)


@pytest.mark.parametrize("compression", [33004, 33005, 34712])
@pytest.mark.parametrize("chroma", ["422", "420"])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_subsampled_jpeg2000_is_ycbcr(
    tmp_path: Path, compression: int, chroma: str, photometric: str
) -> None:
    path = tmp_path / "slide.tif"
    write_jpeg2000(path, CODESTREAMS[chroma], compression, photometric, aperio=False)
    assert np.abs(read(path) - rgb_from_ycbcr(planes())).max() <= 3


@pytest.mark.parametrize("compression", [33004, 33005, 34712])
def test_jpeg2000_in_full_by_its_tag(tmp_path: Path, compression: int) -> None:
    rgb = picture(SIDE, SIDE)
    options = {"codecformat": "j2k", "mct": False, "reversible": True}
    path = tmp_path / "rgb.tif"
    write_jpeg2000(path, imagecodecs.jpeg2k_encode(rgb, **options), compression, "rgb", False)
    assert np.array_equal(read(path), rgb)
    if compression != 33005:  # which says RGB itself
        path = tmp_path / "ycbcr.tif"
        data = imagecodecs.jpeg2k_encode(ycbcr(rgb), **options)
        write_jpeg2000(path, data, compression, "ycbcr", False)
        assert np.abs(read(path) - rgb).max() <= 2


def test_contradicting_jpeg2000_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.tif"
    data = imagecodecs.jpeg2k_encode(picture(SIDE, SIDE), codecformat="j2k", mct=True)
    assert Codestream.of(data).has_transform
    write_jpeg2000(path, data, 34712, "ycbcr", aperio=False)
    with pytest.raises(SlideOpenError, match="which is true cannot be known"):
        open_slide(path)


def test_unread_subsampling_is_named(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_jpeg2000(path, CODESTREAMS["411"], 34712, "ycbcr", aperio=False)
    with pytest.raises(SlideOpenError, match="4:2:2 or 4:2:0"):
        open_slide(path)
