"""Tiles of a slide for a zooming viewer, out of any format that the package reads.

The viewer's image is the slide's frame: the scanned area where the file states one, else the whole
canvas; the same frame as that of maps and of the files for QuPath.
"""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from pathology_scaat.artifacts.urls import SlideUrl
from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.slides import Slide, open_slide
from pathology_scaat.slides.base import RgbImage

TILE_PX = 512
JPEG_QUALITY = 85
MAX_OPEN_SLIDES = 4
MAX_CACHE_BYTES = 96 << 20


class TileServer:
    """One open slide, read by one thread at a time."""

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self._lock = threading.Lock()
        self.frame_px = slide.info.frame_px
        self.max_level = max(0, math.ceil(math.log2(max(self.size_px.width, self.size_px.height))))

    @property
    def size_px(self) -> SizePx:
        """Size of the viewer's image, level-0 pixels."""
        return SizePx(self.frame_px.width, self.frame_px.height)

    def close(self) -> None:
        with self._lock:
            self._slide.close()

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
    """Grey hatching: a damaged place must look neither like glass nor like tissue."""
    y, x = np.mgrid[: size.height, : size.width]
    shade = np.where((x + y) // 8 % 2, 120, 180).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2)


def encode_jpeg(pixels: RgbImage) -> bytes:
    """A tile as JPEG; nothing of the slide's metadata comes along."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


class SlideShelf:
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

    def server(self, slide_id: str) -> TileServer:
        """The open slide of an id; opened where it is not.

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
            too_many = []
            while len(self._open) > MAX_OPEN_SLIDES:
                too_many.append(self._open.popitem(last=False)[1])
        for other in too_many:
            other.close()
        return server

    def jpeg(self, slide_id: str, level: int, col: int, row: int) -> bytes | None:
        """A tile as JPEG; None where there is no such tile."""
        key = (slide_id, level, col, row)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        pixels = self.server(slide_id).tile(level, col, row)
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
