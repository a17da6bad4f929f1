"""Decoding the segments (tiles, strips) of a TIFF page into RGB.

A TIFF says twice what its numbers mean: by the tag PhotometricInterpretation and in the
compressed data. The rules below were checked against the array that was written and against
OpenSlide (tests/slides/test_tiff_colours.py):

* JPEG: the codec makes RGB; the tag and the JFIF mark say which colours it gets.
* JPEG 2000: a codestream with subsampled chroma holds YCbCr, and the codec makes RGB of it.
  Else compression 33003 holds YCbCr and 33005 RGB; under the other numbers the tag decides.
  Where it says YCbCr and the codestream has a colour transform of its own, which is meant
  for RGB, the two contradict each other.
* WebP, JPEG XL, JPEG XR, PNG: RGB by definition; a tag that says YCbCr contradicts them.
* Everything else keeps the samples as they are; YCbCr is converted here.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from pathology_scaat.slides.base import RgbImage

JPEG = 7
JPEGS = (JPEG, 33007, 34892)
APERIO_JP2000_YCBCR = 33003
APERIO_JP2000_RGB = 33005
JPEG_2000 = (APERIO_JP2000_YCBCR, 33004, APERIO_JP2000_RGB, 34712)
RGB_ONLY = (50001, 50002, 52546, 22610, 34934, 34933)
"""WebP, JPEG XL, JPEG XR, PNG."""

SAMPLE_CODECS = (1, 5, 8, 32773, 32946, 34887, 34925, 50000, 34926)
"""None, LZW, deflate, PackBits, LERC, LZMA, zstd: codecs of plain samples."""

READ_COMPRESSIONS = (*JPEGS, *JPEG_2000, *RGB_ONLY, *SAMPLE_CODECS)
OPENSLIDE_COMPRESSIONS = (1, 5, 7, 8, 32773, 32946, 33003, 33005)
"""What OpenSlide's TIFF library decodes; it prints to the terminal about any other."""

ALPHA_ASSOCIATED, ALPHA_UNASSOCIATED = 1, 2
_SOC_SIZ = b"\xff\x4f\xff\x51"
_SYCC = 18
_HEAD_BYTES = 1 << 16
_LUMA = (0.299, 0.587, 0.114)
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)

Decode = Callable[[bytes, int, RgbImage | None], RgbImage]
"""Encoded bytes, number of the segment, memory that may be used: (height, width, 3) uint8."""


def colour_problem(page: Any) -> str:
    """Why a page's pixels are no brightfield RGB that can be decoded; "" where they are."""
    return sample_problem(page) or _compression_problem(page)


def sample_problem(page: Any) -> str:
    """Why a page's pixels are no 8-bit RGB, whoever decodes them; "" where they are.

    More than 8 bits are refused: how they should become 8 is a decision for whoever made
    them.
    """
    dtype = page.dtype
    if dtype is None:
        return f"has {page.bitspersample}-bit pixels, where 8 bits are needed"
    if dtype == np.int8:
        return "has signed 8-bit pixels (int8), where unsigned ones are needed"
    if dtype.kind == "f":
        return f"has floating-point pixels ({dtype}), where unsigned 8-bit ones are needed"
    if dtype != np.uint8 or page.bitspersample != 8:
        return f"has {page.bitspersample} bits per channel, where 8 are needed"
    colours, samples = page.photometric.name, page.samplesperpixel
    if colours not in ("RGB", "YCBCR", "MINISBLACK", "MINISWHITE"):
        return f"stores its colours as {colours}, not as RGB"
    if samples <= 2 or colours.startswith("MINIS"):
        what = "one channel" if samples == 1 else f"{samples} channels"
        return f"is grey ({what}), not RGB"
    if samples == 3:
        return ""
    extra = tuple(int(e) for e in page.extrasamples)
    if samples != 4 or colours != "RGB":
        return f"has {samples} channels, not red, green and blue"
    if extra not in ((ALPHA_ASSOCIATED,), (ALPHA_UNASSOCIATED,)):
        return "has a fourth channel that is not said to be transparency"
    return ""


def _compression_problem(page: Any) -> str:
    number = int(page.compression)
    name = getattr(page.compression, "name", number)
    if number not in READ_COMPRESSIONS:
        return f"is compressed as {name}, which is not read here"
    if number in RGB_ONLY and page.photometric.name == "YCBCR":
        return f"says YCbCr of {name} data, which hold RGB; which is true cannot be known"
    if number in JPEG_2000:
        return _codestream_problem(page)
    if page.planarconfig == 2 and page.photometric.name == "YCBCR" and _subsampling(page) != (1, 1):
        return "stores subsampled YCbCr in separate planes, which is not read here"
    return ""


def _codestream_problem(page: Any) -> str:
    """What the page's first codestream says that cannot be read, or contradicts the tag."""
    tile_index = next((i for i, n in enumerate(page.databytecounts) if n > 0), None)
    if tile_index is None:
        return ""
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[tile_index])
    try:
        stream = Codestream.of(handle.read(min(page.databytecounts[tile_index], _HEAD_BYTES)))
    except (ValueError, struct.error, IndexError):
        return ""  # damaged: reported when the tile is read
    if any(step not in ((1, 1), (2, 1), (2, 2)) for step in stream.steps):
        return "holds JPEG 2000 whose chroma is subsampled otherwise than 4:2:2 or 4:2:0"
    unsure = int(page.compression) not in (APERIO_JP2000_YCBCR, APERIO_JP2000_RGB)
    if unsure and stream.has_transform and page.photometric.name == "YCBCR":
        return "says YCbCr of JPEG 2000 data that hold RGB; which is true cannot be known"
    return ""


def _subsampling(page: Any) -> tuple[int, int]:
    value = page.tags.valueof(530, (2, 2))
    return int(value[0]), int(value[1])


def decoder(page: Any) -> Decode:
    """A function that makes RGB of one segment of an interleaved page."""
    number = int(page.compression)
    if number in JPEGS and page.samplesperpixel == 3:
        return _jpeg(page)
    if number in JPEG_2000:
        return _jpeg_2000(page)
    if page.photometric.name == "YCBCR":
        return _plain_ycbcr(page)
    tables = page.jpegtables

    def decode(data: bytes, index: int, scratch: RgbImage | None) -> RgbImage:
        image = np.asarray(page.decode(data, index, jpegtables=tables)[0])[0]
        return _opaque(image, page)

    return decode


def plane_decoder(page: Any) -> Callable[[bytes, int], NDArray[np.uint8]]:
    """A function that decodes a segment of one channel, (height, width) uint8."""
    tables = page.jpegtables

    def decode(data: bytes, index: int) -> NDArray[np.uint8]:
        image = np.asarray(page.decode(data, index, jpegtables=tables)[0])[0]
        plane: NDArray[np.uint8] = image[..., 0]
        return plane

    return decode


def merged(planes: NDArray[np.uint8], page: Any) -> RgbImage:
    """RGB (h, w, 3) of decoded planes (h, w, samples), uint8, by what the page says of colours."""
    if page.photometric.name == "YCBCR" and int(page.compression) not in JPEGS:
        return YcbcrRule.of(page).rgb(planes)
    if page.photometric.name == "YCBCR":
        return rgb_from_ycbcr(planes)
    return _opaque(planes, page)


def _opaque(image: NDArray[np.uint8], page: Any) -> RgbImage:
    """Transparency over white."""
    if image.shape[-1] != 4:
        return image
    alpha = image[..., 3:].astype(np.uint16)
    colours = image[..., :3].astype(np.uint16)
    if tuple(int(e) for e in page.extrasamples) == (ALPHA_ASSOCIATED,):
        mixed = np.minimum(colours + (255 - alpha), 255)
    else:
        mixed = (colours * alpha + 255 * (255 - alpha) + 127) // 255
    opaque: RgbImage = mixed.astype(np.uint8)
    return opaque


def _jpeg(page: Any) -> Decode:
    tables = page.jpegtables
    colours, out_colours = tifffile.tifffile.jpeg_decode_colorspace(
        page.photometric, page.planarconfig, page.extrasamples, page.is_jfif
    )

    def decode(data: bytes, index: int, scratch: RgbImage | None) -> RgbImage:
        if scratch is not None:
            # Memory that is in use already: fresh pages for each tile cost nearly as much
            # as decoding it. What does not fit into it is decoded below.
            with contextlib.suppress(ValueError, RuntimeError):
                imagecodecs.jpeg8_decode(
                    data, tables=tables, colorspace=colours, outcolorspace=out_colours, out=scratch
                )
                return scratch
        image: RgbImage = np.asarray(page.decode(data, index, jpegtables=tables)[0])[0]
        return image

    return decode


@dataclass(frozen=True)
class Codestream:
    """What the header of a JPEG 2000 codestream says about its colours."""

    steps: tuple[tuple[int, int], ...]
    has_transform: bool
    is_sycc: bool

    @property
    def is_subsampled(self) -> bool:
        return any(step != self.steps[0] for step in self.steps)

    @classmethod
    def of(cls, data: bytes) -> Codestream:
        """Read the markers SIZ and COD, and the colour box of a JP2 file.

        Raises
        ------
        ValueError
            If it is no JPEG 2000.
        """
        start = data.find(_SOC_SIZ, 0, 1 << 16)
        if start < 0:
            raise ValueError("no JPEG 2000 codestream")
        box = data.find(b"colr", 0, start)
        sycc = (
            box >= 0
            and data[box + 4 : box + 5] == b"\x01"
            and (struct.unpack_from(">I", data, box + 7)[0] == _SYCC)
        )
        offset = start + 4
        (n_components,) = struct.unpack_from(">H", data, offset + 36)
        sizes = [offset + 39 + 3 * i for i in range(n_components)]
        steps = tuple((data[at], data[at + 1]) for at in sizes)
        offset += struct.unpack_from(">H", data, offset)[0]
        transform = False
        while data[offset : offset + 1] == b"\xff" and data[offset + 1] != 0x90:  # start of a tile
            if data[offset + 1] == 0x52:  # COD
                transform = data[offset + 8] != 0
            offset += 2 + struct.unpack_from(">H", data, offset + 2)[0]
        return cls(steps, transform, bool(sycc))


def _jpeg_2000(page: Any) -> Decode:
    number, says_ycbcr = int(page.compression), page.photometric.name == "YCBCR"

    def decode(data: bytes, index: int, scratch: RgbImage | None) -> RgbImage:
        image = np.asarray(imagecodecs.jpeg2k_decode(data))
        stream = Codestream.of(data)
        if stream.is_subsampled or stream.is_sycc:
            return image  # the codec has made RGB of it
        if number == APERIO_JP2000_YCBCR:
            return rgb_from_ycbcr(image)
        if number != APERIO_JP2000_RGB and says_ycbcr:
            return rgb_from_ycbcr(image)
        return _opaque(image, page)

    return decode


def _plain_ycbcr(page: Any) -> Decode:
    rule, (across, down) = YcbcrRule.of(page), _subsampling(page)
    stated = page.tags.get(530) is not None

    def decode(data: bytes, index: int, scratch: RgbImage | None) -> RgbImage:
        height, width = _segment_shape(page, index)
        if (across, down) == (1, 1):
            return rule.rgb(np.asarray(page.decode(data, index)[0])[0])
        raw = np.frombuffer(_decompressed(page, data), dtype=np.uint8)
        if not stated and raw.size >= height * width * 3:
            # Writers that leave the tag out mean "not subsampled" more often than the
            # standard's default; the number of bytes shows it.
            return rule.rgb(raw[: height * width * 3].reshape(height, width, 3))
        return rule.rgb(unpacked(raw, height, width, across, down))

    return decode


def _segment_shape(page: Any, index: int) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    rows = page.rowsperstrip
    return min(rows, page.imagelength - index * rows), page.imagewidth


def _decompressed(page: Any, data: bytes) -> bytes:
    if int(page.compression) == 1:
        return data
    raw: bytes = tifffile.TIFF.DECOMPRESSORS[int(page.compression)](data)
    return raw


def unpacked(
    raw: NDArray[np.uint8], height: int, width: int, across: int, down: int
) -> NDArray[np.uint8]:
    """Subsampled YCbCr as TIFF packs it, (n,) uint8, to (height, width, 3) uint8, not subsampled.

    A unit holds the luma of ``across`` x ``down`` pixels, then one Cb and one Cr.
    """
    rows, cols, unit = -(-height // down), -(-width // across), across * down + 2
    blocks = raw[: rows * cols * unit].reshape(rows, cols, unit)
    units = blocks[..., :-2].reshape(rows, cols, down, across)
    luma = units.transpose(0, 2, 1, 3).reshape(rows * down, cols * across)
    chroma = np.repeat(np.repeat(blocks[..., -2:], down, axis=0), across, axis=1)
    return np.concatenate([luma[..., None], chroma], axis=-1)[:height, :width]


@dataclass(frozen=True)
class YcbcrRule:
    """Weights of red, green and blue in luma, and the black and white of each component."""

    luma: tuple[float, float, float] = _LUMA
    black_white: tuple[float, ...] = _FULL_RANGE

    @classmethod
    def of(cls, page: Any) -> YcbcrRule:
        """By the tags YCbCrCoefficients and ReferenceBlackWhite."""
        weights = _rationals(page.tags.valueof(529), 3) or _LUMA
        levels = _rationals(page.tags.valueof(532), 6) or _FULL_RANGE
        if min(weights) <= 0 or any(levels[i] >= levels[i + 1] for i in (0, 2, 4)):
            return cls()
        return cls((weights[0], weights[1], weights[2]), levels)

    def rgb(self, pixels: NDArray[np.uint8]) -> RgbImage:
        """(h, w, 3) uint8 YCbCr to RGB of the same shape."""
        if self == YcbcrRule():
            return rgb_from_ycbcr(pixels)
        low, high = np.array(self.black_white[::2]), np.array(self.black_white[1::2])
        values = (pixels.astype(np.float32) - low) * (
            np.array([255.0, 127.0, 127.0]) / (high - low)
        )
        r, g, b = self.luma
        luma, blue, red = values[..., 0], values[..., 1] * (2 - 2 * b), values[..., 2] * (2 - 2 * r)
        planes = [luma + red, luma - (b * blue + r * red) / g, luma + blue]
        return _rounded(np.stack(planes, axis=-1))


def _rationals(value: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(value, tuple) or len(value) != 2 * count or 0 in value[1::2]:
        return None
    return tuple(value[i] / value[i + 1] for i in range(0, 2 * count, 2))


def rgb_from_ycbcr(pixels: NDArray[np.uint8]) -> RgbImage:
    """Full-range BT.601 YCbCr (JFIF, JPEG part 5) to RGB, both (h, w, 3) uint8."""
    values = pixels.astype(np.float32)
    luma, blue, red = values[..., 0], values[..., 1] - 128, values[..., 2] - 128
    rgb = np.stack(
        [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue],
        axis=-1,
    )
    return _rounded(rgb)


def _rounded(values: NDArray[np.floating]) -> RgbImage:
    rounded: RgbImage = np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)
    return rounded
