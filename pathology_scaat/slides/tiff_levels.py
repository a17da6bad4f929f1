"""What a tiled TIFF holds: its pyramid, where each tile's bytes are, how they are decoded."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import imagecodecs
import numpy as np
import tifffile
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.spacing import Spacing, spacing_from_file
from pathology_scaat.slides.tiles import TileLattice

# tifffile tells about damaged headers through its logger; without a handler there Python
# would print that to the terminal, where one sentence of ours is enough.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

JPEG = 7
APERIO_JP2000_YCBCR = 33003
MAX_TILE_PX = 4096 * 4096
MAX_TILE_BYTES = MAX_TILE_PX * 4

_MICRONS = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class UnsuitableError(ValueError):
    """A TIFF that this reader does not serve; another one may. The reason, in words."""


@dataclass(frozen=True, eq=False)
class TiffLevel:
    """One pyramid level: its lattice, and offset and length of each tile's bytes.

    Tiles of length 0 are blank.
    """

    lattice: TileLattice
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    decode: Callable[[bytes, int, RgbImage | None], RgbImage]


def series_of(tiff: tifffile.TiffFile) -> Any:
    """The series that is the slide: the first, which every family puts there."""
    if not tiff.series:
        raise UnsuitableError("it holds no image")
    return tiff.series[0]


def check_samples(tiff: tifffile.TiffFile) -> str | None:
    """Why the pixels are none that any reader should serve, or None.

    Grey is shown as equal red, green and blue. More than 8 bits are refused: how they should
    become 8 is a decision for whoever made them.
    """
    if not len(tiff.pages):
        return None
    page: Any = tiff.pages[0]
    if page.dtype is None or page.dtype != np.uint8:
        bits = page.bitspersample
        return f"has {bits} bits per channel, where 8 are needed"
    return None


def _size(page: Any) -> SizePx:
    return SizePx(page.imagewidth, page.imagelength)


def read_levels(
    tiff: tifffile.TiffFile, sizes: Sequence[SizePx] | None = None
) -> tuple[TiffLevel, ...]:
    """The pyramid of a tiled TIFF.

    Parameters
    ----------
    tiff : TiffFile
    sizes : sequence of SizePx, optional
        The levels that OpenSlide sees. Where tifffile groups the pages otherwise (it takes
        the second one of every Aperio file for a thumbnail), and all tiled pages have these
        sizes, they are the levels.

    Raises
    ------
    UnsuitableError
        If its tiles are not plain 8-bit grey or RGB.
    """
    pages = [series.pages[0] for series in series_of(tiff).levels]
    if sizes is not None and not tiff.is_ome and [_size(page) for page in pages] != [*sizes]:
        every: Any = tiff.pages
        tiled = [page for page in every if page.is_tiled]
        pages = tiled if [_size(page) for page in tiled] == [*sizes] else pages
    levels = [_level(page) for page in pages]
    widths = [level.lattice.level_size_px.width for level in levels]
    if widths != sorted(widths, reverse=True):
        raise UnsuitableError("its levels are in no order")
    return tuple(levels)


def _level(page: Any) -> TiffLevel:
    page = page.aspage() if isinstance(page, tifffile.TiffFrame) else page
    if not page.is_tiled:
        raise UnsuitableError("it is not tiled")
    if page.dtype != np.uint8 or page.samplesperpixel not in (1, 3) or page.planarconfig != 1:
        raise UnsuitableError("its pixels are not interleaved 8-bit RGB or grey")
    if page.tilewidth * page.tilelength > MAX_TILE_PX or page.imagedepth != 1:
        raise UnsuitableError("its tiles are too large")
    if page.photometric.name not in ("RGB", "YCBCR", "MINISBLACK"):
        raise UnsuitableError(f"its colours are stored as {page.photometric.name}")
    lattice = TileLattice(
        SizePx(page.imagewidth, page.imagelength), SizePx(page.tilewidth, page.tilelength)
    )
    count = lattice.n_cols * lattice.n_rows
    offsets = np.asarray(page.dataoffsets, dtype=np.int64)
    lengths = np.asarray(page.databytecounts, dtype=np.int64)
    if len(offsets) != count or len(lengths) != count:
        raise UnsuitableError("its tile table is not whole")
    return TiffLevel(lattice, offsets, lengths, _decoder(page))


def _decoder(page: Any) -> Callable[[bytes, int, RgbImage | None], RgbImage]:
    tables = page.jpegtables
    ycbcr_jp2 = int(page.compression) == APERIO_JP2000_YCBCR
    plain_jpeg = int(page.compression) == JPEG and page.samplesperpixel == 3
    if plain_jpeg:
        colours, out_colours = tifffile.tifffile.jpeg_decode_colorspace(
            page.photometric, page.planarconfig, page.extrasamples, page.is_jfif
        )

    def decode(data: bytes, index: int, scratch: RgbImage | None) -> RgbImage:
        if ycbcr_jp2:
            return rgb_from_ycbcr(np.asarray(imagecodecs.jpeg2k_decode(data)))
        if plain_jpeg and scratch is not None:
            # Memory that is in use already: fresh pages for each tile cost nearly as much
            # as decoding it. What does not fit into it is decoded below.
            with contextlib.suppress(ValueError, RuntimeError):
                imagecodecs.jpeg8_decode(
                    data, tables=tables, colorspace=colours, outcolorspace=out_colours, out=scratch
                )
                return scratch
        pixels = page.decode(data, index, jpegtables=tables)[0]
        image: RgbImage = np.asarray(pixels)[0]
        if image.shape[-1] == 1:
            image = np.repeat(image, 3, axis=-1)
        return image

    return decode


def rgb_from_ycbcr(pixels: NDArray[np.uint8]) -> RgbImage:
    """Full-range BT.601 YCbCr (JFIF, JPEG part 5) to RGB, (h, w, 3) uint8."""
    values = pixels.astype(np.float32)
    luma, blue, red = values[..., 0], values[..., 1] - 128, values[..., 2] - 128
    rgb = np.stack(
        [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue],
        axis=-1,
    )
    rounded: RgbImage = np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)
    return rounded


@dataclass(frozen=True)
class TiffDescription:
    """What the headers say, where OpenSlide cannot be asked."""

    vendor: str
    spacing: Spacing
    objective_power: float | None = None


def describe_tiff(tiff: tifffile.TiffFile) -> TiffDescription:
    """Family, µm/px and objective from the headers."""
    page: Any = tiff.pages[0]
    if tiff.is_ome:
        return TiffDescription("ome-tiff", _ome_spacing(tiff.ome_metadata or ""))
    if tiff.is_svs:
        text = page.description
        return TiffDescription(
            "aperio",
            spacing_from_file(_aperio(text, "MPP"), _aperio(text, "MPP")),
            _number(_aperio(text, "AppMag")),
        )
    return TiffDescription("generic-tiff", _resolution_spacing(page))


def _aperio(text: str, name: str) -> str | None:
    found = re.search(rf"\|\s*{name}\s*=\s*([^|\r\n]*)", text)
    return found.group(1).strip() if found else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _ome_spacing(text: str) -> Spacing:
    try:
        root: Element = ElementTree.fromstring(text)
    except (ElementTree.ParseError, DefusedXmlException, ValueError):
        return Spacing(None, "none: its OME-XML cannot be read")
    pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return Spacing(None, "none: its OME-XML describes no pixels")
    sizes: list[str | None] = []
    for axis in "XY":
        value = _number(pixels.get(f"PhysicalSize{axis}"))
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm").replace("μ", "µ")
        if value is not None and unit not in _MICRONS:
            return Spacing(None, "none: its OME-XML states the pixel size in an unknown unit")
        sizes.append(None if value is None else repr(value * _MICRONS[unit]))
    return spacing_from_file(*sizes)


def _resolution_spacing(page: Any) -> Spacing:
    microns = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof("ResolutionUnit", 1) or 1))
    if microns is None:
        return spacing_from_file(None, None)
    sizes = []
    for name in ("XResolution", "YResolution"):
        ratio = page.tags.valueof(name)
        usable = isinstance(ratio, tuple) and len(ratio) == 2 and ratio[0] and ratio[1]
        sizes.append(repr(microns * ratio[1] / ratio[0]) if usable else None)
    return spacing_from_file(*sizes)
