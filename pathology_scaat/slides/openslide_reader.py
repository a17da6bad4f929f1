"""OpenSlide: every vendor's format, and the reference for pixels."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from PIL import Image, ImageCms

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx, snapped_downsample
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideInfo
from pathology_scaat.slides.spacing import Spacing, spacing_from_file, with_override
from pathology_scaat.slides.tiles import check_box
from pathology_scaat.system.closing import Closing

_BOUNDS = ("x", "y", "width", "height")
_RAW_MPP = ("aperio.MPP",)
"""Vendor properties that hold the µm/px as written, before OpenSlide's reading of it."""


def _whole(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _positive(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _bounds(properties: Mapping[str, str], canvas: SizePx) -> BoxPx | None:
    values = [_whole(properties.get(f"openslide.bounds-{name}")) for name in _BOUNDS]
    if any(v is None for v in values):
        return None
    box = BoxPx(*(v for v in values if v is not None))
    return box.intersection(BoxPx(0, 0, canvas.width, canvas.height))


def _spacing(properties: Mapping[str, str]) -> Spacing:
    spacing = spacing_from_file(
        properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)
    )
    raw = next((properties[name] for name in _RAW_MPP if name in properties), None)
    if raw is None:
        return spacing
    if spacing.mpp is None:
        judged = spacing_from_file(raw, raw)
        return judged if judged.mpp is None else spacing
    if "," in raw:
        return Spacing(spacing.mpp, spacing.source, spacing_from_file(raw, raw).notes)
    return spacing


def describe(handle: openslide.OpenSlide, reader: str) -> SlideInfo:
    """What OpenSlide knows of a slide, by a list of what may be told; nothing else is read."""
    properties = handle.properties
    sizes = [SizePx(*size) for size in handle.level_dimensions]
    levels = []
    for index, size in enumerate(sizes):
        width = _whole(properties.get(f"openslide.level[{index}].tile-width"))
        height = _whole(properties.get(f"openslide.level[{index}].tile-height"))
        tile = SizePx(width, height) if width and height else None
        levels.append(LevelInfo(size, snapped_downsample(sizes[0], size), tile))
    spacing = _spacing(properties)
    icc = properties.get("openslide.icc-size")
    return SlideInfo(
        reader=reader,
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        levels=tuple(levels),
        mpp=spacing.mpp,
        mpp_source=spacing.source,
        objective_power=_positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        bounds_px=_bounds(properties, sizes[0]),
        icc_profile_bytes=_whole(icc) or 0,
        notes=spacing.notes,
    )


def over_white(image: Image.Image) -> RgbImage:
    """RGBA of a region as RGB over white."""
    rgba = np.asarray(image)
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha[..., None].astype(np.uint16)
    mixed = rgba[..., :3] * weight + 255 * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)


def open_handle(path: Path, subject: str | None = None) -> openslide.OpenSlide:
    """Open a file with OpenSlide, in one sentence where that fails."""
    name = subject or path.name
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideOpenError(
            name,
            "is not a slide that can be opened (empty, cut off, or of another format)",
            "copy it again, or convert it",
        ) from None
    except (openslide.OpenSlideError, OSError, UnicodeError):
        # OpenSlide's own words may hold the path.
        raise SlideOpenError(
            name, "is damaged or incomplete", "copy the slide again with all its files"
        ) from None


class OpenSlideSlide(Closing):
    """A slide read by OpenSlide.

    Below level 0 OpenSlide places a region to the nearest level-0 pixel and interpolates, so
    that pixels there may be shifted by up to half a level-0 pixel.
    """

    def __init__(self, path: Path, mpp: float | None = None, *, subject: str | None = None) -> None:
        self._path = path
        self._subject = subject or path.name
        self._handle = open_handle(path, self._subject)
        self._lock = threading.Lock()
        self._info = with_override(describe(self._handle, "openslide"), mpp, self._subject)
        self._factors = tuple(self._handle.level_downsamples)

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        check_box(box_px, self._subject)
        factor = self._factors[level]
        # A region that begins left of or above the slide is asked for from its first pixel
        # on: OpenSlide would be given a negative place otherwise, which some formats refuse.
        skip_x, skip_y = max(-box_px.x, 0), max(-box_px.y, 0)
        size = self._info.levels[level].size_px
        width = min(box_px.right, size.width) - (box_px.x + skip_x)
        height = min(box_px.bottom, size.height) - (box_px.y + skip_y)
        if width < 1 or height < 1:
            return np.full((box_px.height, box_px.width, 3), 255, dtype=np.uint8)
        # Rounded up: OpenSlide divides by the factor and rounds down, so that a place rounded
        # to the nearest pixel may be read one level pixel too early (Leica).
        left = math.ceil((box_px.x + skip_x) * factor - 1e-6)
        top = math.ceil((box_px.y + skip_y) * factor - 1e-6)
        region = over_white(self._read_region((left, top), level, (width, height)))
        if (width, height) == (box_px.width, box_px.height):
            return region
        out = np.full((box_px.height, box_px.width, 3), 255, dtype=np.uint8)
        out[skip_y : skip_y + height, skip_x : skip_x + width] = region
        return out

    def _read_region(
        self, place: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        handle = self._handle
        try:
            return handle.read_region(place, level, size)
        except openslide.OpenSlideError:
            # Errors latch: every later call on the handle fails. Another thread may have met
            # the damage, so that this region is read once more where nobody else reads. The
            # old handle closes itself when the last thread has let go of it.
            with self._lock:
                if self._handle is handle:
                    self._handle = open_handle(self._path, self._subject)
        try:
            with open_handle(self._path, self._subject) as own:
                return own.read_region(place, level, size)
        except openslide.OpenSlideError:
            raise SlideReadError(
                self._subject, "pixels cannot be decoded", "copy the slide again"
            ) from None

    def icc_profile(self) -> bytes | None:
        profile: ImageCms.ImageCmsProfile | None = self._handle.color_profile
        return None if profile is None else bytes(profile.tobytes())

    def close(self) -> None:
        self._handle.close()
