"""A slide's own JPEG tiles, undecoded, each as a stream that is whole by itself."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import tifffile

from pathology_scaat.errors import SlideReadError
from pathology_scaat.slides.base import Slide
from pathology_scaat.slides.jpeg_streams import (
    JpegHead,
    JpegStreamError,
    check_head,
    check_stored,
    holds_rgb,
    read_head,
    scan_end,
    tables_of,
    whole_head,
)
from pathology_scaat.slides.tiff_colours import JPEG, JPEGS
from pathology_scaat.slides.tiff_levels import MAX_TILE_BYTES, TiffLevel
from pathology_scaat.slides.tiff_reader import TIFF_ERRORS, TiffSlide

_RGB = 2  # PhotometricInterpretation
_MOST_HEADS = 4096
"""Distinct headers that are remembered; some encoders make tables of its own for each tile."""


class JpegTiles:
    """The tiles of one level of a slide whose tiles are JPEG.

    Raises
    ------
    JpegStreamError
        If this level's tiles cannot be kept as they are; the reason, in words.
    """

    def __init__(self, slide: Slide, level: int) -> None:
        if not isinstance(slide, TiffSlide):
            raise JpegStreamError(
                f"are not to be had undecoded from its reader ({slide.info.reader})"
            )
        self._slide, self._level_number = slide, level
        self._level = slide.tiff_level(level)
        page = _jpeg_page(self._level)
        self._plane = self._level.planes[0]
        self.lattice = self._level.lattice
        try:
            self._tables = tables_of(page.jpegtables)
        except TIFF_ERRORS:  # JpegStreamError is a ValueError, too
            raise JpegStreamError("have damaged tables") from None
        colours, _ = tifffile.tifffile.jpeg_decode_colorspace(
            page.photometric, page.planarconfig, page.extrasamples, page.is_jfif
        )
        self._said_to_be_rgb = colours == _RGB
        self._heads: dict[bytes, bytes] = {}
        self._kinds: set[tuple[bytes, ...]] = set()
        self._last = (b"\0", b"")

    def stream(self, col: int, row: int) -> bytes:
        """One tile as a JPEG stream, whole by itself.

        It decodes to the very pixels that the slide gives: the first of its kind (same frame, same
        scan, same tables at hand) was decoded both ways.

        Raises
        ------
        JpegStreamError
            If it must be decoded; the reason, in words that follow "tiles".
        """
        lattice = self.lattice
        size, tile = lattice.level_size_px, lattice.tile_size_px
        whole_cols, whole_rows = size.width // tile.width, size.height // tile.height
        if not (0 <= col < whole_cols and 0 <= row < whole_rows):
            raise JpegStreamError("reach beyond the slide's edge")
        data = self._bytes_of(row * lattice.n_cols + col)
        own, whole = self._last
        if not data.startswith(own):
            own, whole = self._last = self._head(data, col, row)
        return whole + data[len(own) : scan_end(data, len(own))]

    def _bytes_of(self, index: int) -> bytes:
        length = int(self._plane.lengths[index])
        if length == 0:
            raise JpegStreamError("are blank: the file has nothing there")
        if not 0 < length <= MAX_TILE_BYTES:
            raise JpegStreamError("are damaged")
        try:
            data = self._slide.read_bytes(int(self._plane.offsets[index]), length)
        except SlideReadError:
            raise JpegStreamError("are damaged") from None
        if len(data) < length:
            raise JpegStreamError("are cut off, or have several scans")
        return data

    def _head(self, data: bytes, col: int, row: int) -> tuple[bytes, bytes]:
        """A tile's own header, and the one that takes its place."""
        head = read_head(data)
        own = data[: head.length]
        if own not in self._heads:
            size = self.lattice.tile_size_px
            check_head(head, size.height, size.width)
            is_rgb = holds_rgb(head, said_to_be_rgb=self._said_to_be_rgb)
            whole = whole_head(head, self._tables, is_rgb=is_rgb)
            kind = _kind_of(head, is_rgb)
            if kind not in self._kinds:
                self._check_pixels(whole + data[head.length :], col, row)
                self._kinds.add(kind)
            if len(self._heads) == _MOST_HEADS:
                self._heads.clear()
            self._heads[own] = whole
        return own, self._heads[own]

    def _check_pixels(self, stream: bytes, col: int, row: int) -> None:
        """Whether a stream decodes to what the slide gives for its tile, to the last bit."""
        size = self.lattice.tile_size_px
        out = np.empty((size.height, size.width, 3), np.uint8)
        try:
            right = self._slide.read_tile(self._level_number, col, row)
            check_stored(stream, *out.shape[:2])
            imagecodecs.jpeg8_decode(stream, out=out)
        except (SlideReadError, ValueError, RuntimeError):
            raise JpegStreamError("are damaged") from None
        if right is None or not np.array_equal(out, right):
            raise JpegStreamError("do not give the same pixels outside their file")


def _jpeg_page(level: TiffLevel) -> Any:
    """A level's page. Raises JpegStreamError where its tiles are no whole JPEG pictures."""
    page = level.page
    number = int(page.compression)
    if number not in JPEGS:
        name = getattr(page.compression, "name", number)
        raise JpegStreamError(f"are compressed as {name}, not as JPEG")
    if number != JPEG:
        raise JpegStreamError(f"are JPEG of a kind of its own (compression {number})")
    if level.strips:
        raise JpegStreamError("are none: it is stored in strips")
    if len(level.planes) != 1 or page.samplesperpixel != 3 or page.planarconfig != 1:
        raise JpegStreamError("have their channels apart, or not three of them")
    return page


def _kind_of(head: JpegHead, is_rgb: bool) -> tuple[bytes, ...]:
    """What decides whether a stream can be decoded, and how: all but the tables' numbers."""
    tables = (s[:2] + s[4:5] + len(s).to_bytes(2, "big") for s in head.of(0xDB, 0xC4))
    rest = (s for m, s in head.segments if m not in (0xDB, 0xC4) and not 0xE0 <= m <= 0xFE)
    return (bytes([is_rgb]), *tables, *rest)
