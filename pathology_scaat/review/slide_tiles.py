"""Tiles of a slide for a zooming viewer, out of any format that the package reads.

The viewer's image is the slide's frame: the scanned area where the file states one, else the whole
canvas; the same frame as that of maps and of the files for QuPath.
"""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pathology_scaat.artifacts.urls import SlideUrl
from pathology_scaat.errors import SlideReadError
from pathology_scaat.export.raster.thumbnail import frame_thumbnail
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.slides import Slide, open_slide
from pathology_scaat.slides.base import RgbImage

TILE_PX = 512
JPEG_QUALITY = 85
MAX_OPEN_SLIDES = 4
MAX_CACHE_BYTES = 96 << 20
MAX_READ_PX = 4 << 20
"""Level pixels that are read at once: a slide without coarse levels must not fill the memory."""


class TileServer:
    """One open slide, read by one thread at a time."""

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self._lock = threading.Lock()
        self.readers = 0
        """Who is reading just now; counted by the cache, which closes nothing that is read."""
        self.frame_px = slide.info.frame_px
        self.max_level = max(0, math.ceil(math.log2(max(self.size_px.width, self.size_px.height))))

    @property
    def size_px(self) -> SizePx:
        """Size of the viewer's image, level-0 pixels."""
        return SizePx(self.frame_px.width, self.frame_px.height)

    def close(self) -> None:
        with self._lock:
            self._slide.close()

    def whole(self, size_px: SizePx, scale_px: float) -> RgbImage:
        """The frame at ``scale_px`` level-0 pixels a pixel, (height, width, 3) uint8."""
        with self._lock:
            return frame_thumbnail(self._slide, size_px, scale_px)

    def tile(self, level: int, col: int, row: int) -> RgbImage | None:
        """Pixels of a tile, (height, width, 3) uint8; None where there is no such tile.

        Parameters
        ----------
        level : int
            0 (the whole frame in one pixel) to ``max_level`` (level-0 pixels), each twice as
            fine as the one before.
        col, row : int
            Column and row of the tile at that level.
        """
        if not (0 <= level <= self.max_level and col >= 0 and row >= 0):
            return None
        scale = 1 << (self.max_level - level)
        width = -(-self.size_px.width // scale) - col * TILE_PX
        height = -(-self.size_px.height // scale) - row * TILE_PX
        if width <= 0 or height <= 0:
            return None
        size = SizePx(min(width, TILE_PX), min(height, TILE_PX))
        left = self.frame_px.x + col * TILE_PX * scale
        top = self.frame_px.y + row * TILE_PX * scale
        return self._resampled(left, top, scale, size)

    def _resampled(self, left: int, top: int, scale: int, size: SizePx) -> RgbImage:
        """Output pixels of ``scale`` level-0 pixels each, area-averaged from the level below."""
        downsamples = self._slide.info.level_downsamples
        fitting = [i for i, d in enumerate(downsamples) if d <= scale * 1.02] or [0]
        level = max(fitting, key=lambda i: downsamples[i])
        shrink = scale / downsamples[level]
        x, y = left / downsamples[level], top / downsamples[level]
        step = max(1, int(MAX_READ_PX / (size.width * shrink * shrink)))
        bands = []
        for first in range(0, size.height, step):
            rows = min(step, size.height - first)
            bands.append(self._band(level, x, y + first * shrink, shrink, SizePx(size.width, rows)))
        return bands[0] if len(bands) == 1 else np.concatenate(bands)

    def _band(self, level: int, x: float, y: float, shrink: float, size: SizePx) -> RgbImage:
        """Output pixels from one read, ``shrink`` level pixels each; (x, y) is their corner."""
        box = BoxPx(
            math.floor(x),
            math.floor(y),
            math.ceil(x + size.width * shrink) - math.floor(x),
            math.ceil(y + size.height * shrink) - math.floor(y),
        )
        with self._lock:
            try:
                pixels = self._slide.read_level(level, box)
            except SlideReadError:
                return _unreadable(size)
        if (box.width, box.height) == (size.width, size.height):
            return pixels
        part = (x - box.x, y - box.y)
        source = (*part, part[0] + size.width * shrink, part[1] + size.height * shrink)
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        shrunk = picture.resize((size.width, size.height), Image.Resampling.BOX, box=source)
        return np.asarray(shrunk)


def _unreadable(size: SizePx) -> RgbImage:
    """Grey hatching: a damaged area must look neither like glass nor like tissue."""
    y, x = np.mgrid[: size.height, : size.width]
    shade = np.where((x + y) // 8 % 2, 120, 180).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2)


def encode_jpeg(pixels: RgbImage) -> bytes:
    """A tile as JPEG; nothing of the slide's metadata comes along."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


class SlideCache:
    """The slides of a cohort: a few open ones, and the tiles that were just shown.

    Parameters
    ----------
    slides : mapping
        Path or URL, and µm/px of the manifest if any, by slide id.
    """

    def __init__(self, slides: dict[str, tuple[Path | SlideUrl, float | None]]) -> None:
        self._slides = slides
        self._open: OrderedDict[str, TileServer] = OrderedDict()
        self._tiles: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self._slides

    @contextmanager
    def server(self, slide_id: str) -> Iterator[TileServer]:
        """The open slide of an id; opened where it is not, and open as long as it is used.

        Raises
        ------
        SlideOpenError
            If it cannot be opened.
        """
        with self._lock:
            server = self._open.get(slide_id)
            if server is None:
                path, mpp = self._slides[slide_id]
                server = self._open[slide_id] = TileServer(open_slide(path, mpp=mpp))
            self._open.move_to_end(slide_id)
            server.readers += 1
        try:
            yield server
        finally:
            with self._lock:
                server.readers -= 1
                self._close_some()

    def _close_some(self) -> None:
        """Close what was not used for longest, and is not used now."""
        for slide_id in [name for name, server in self._open.items() if not server.readers]:
            if len(self._open) <= MAX_OPEN_SLIDES:
                break
            self._open.pop(slide_id).close()

    def jpeg(self, slide_id: str, level: int, col: int, row: int) -> bytes | None:
        """A tile as JPEG; None where there is no such tile."""
        key = (slide_id, level, col, row)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        with self.server(slide_id) as server:
            pixels = server.tile(level, col, row)
        if pixels is None:
            return None
        data = encode_jpeg(pixels)
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = data
                self._bytes += len(data)
            while self._bytes > MAX_CACHE_BYTES:
                self._bytes -= len(self._tiles.popitem(last=False)[1])
        return data

    def close(self) -> None:
        with self._lock:
            for server in self._open.values():
                server.close()
            self._open.clear()
