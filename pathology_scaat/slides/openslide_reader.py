"""OpenSlide: every vendor's format, and the reference for pixels."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
from PIL import Image, ImageCms

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx, snapped_downsample
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideBase, SlideInfo
from pathology_scaat.slides.painted import OF_OWN_MAP, OWN_MAP, as_painted, is_own_map
from pathology_scaat.slides.pyramid import alike_levels
from pathology_scaat.slides.spacing import Spacing, spacing_from_file, with_override
from pathology_scaat.slides.tiles import check_box

_SLACK = 1e-6
_BOUNDS = ("x", "y", "width", "height")
MAX_BOUNDS_SHARE = 4
"""Bounds of more than this many times the canvas that they cover are not believed."""

MAX_REGIONS = 4096
_REASONS = (
    (
        r"dissimilar main images|with dissimilar",
        "holds scanned areas of different objectives, which OpenSlide does not read together",
        "export the area that you want as OME-TIFF",
    ),
    (
        r"unsupported (tiff )?compression|compression .*not (supported|configured)|not configured",
        "is compressed in a way that OpenSlide does not decode",
        "convert it to a tiled TIFF with JPEG compression",
    ),
    (
        r"fluorescence|not brightfield|can't find main image",
        "holds no brightfield image",
        "convert it to 8-bit RGB if it should be a brightfield slide",
    ),
)
"""What OpenSlide says of whole files that it does not read."""

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


def _box(properties: Mapping[str, str], pattern: str) -> BoxPx | None:
    values = [_whole(properties.get(pattern.format(name))) for name in _BOUNDS]
    if any(v is None for v in values):
        return None
    return BoxPx(*(v for v in values if v is not None))


def _bounds(properties: Mapping[str, str], canvas: SizePx) -> BoxPx | None:
    """The scanned area as stated, which may begin left of or above the canvas (MIRAX, Leica).

    Viewers take its origin for theirs as it is stated, negative or not. Bounds that do not
    meet the canvas, or are far larger than it, are damage.
    """
    box = _box(properties, "openslide.bounds-{}")
    if box is None:
        return None
    inside = box.intersection(BoxPx(0, 0, canvas.width, canvas.height))
    if inside is None or box.area > MAX_BOUNDS_SHARE * inside.area:
        return inside
    return box


def _regions(properties: Mapping[str, str]) -> tuple[BoxPx, ...]:
    """The scanned areas on level 0, where a slide has several or states its only one."""
    found: list[BoxPx] = []
    while len(found) < MAX_REGIONS:
        box = _box(properties, f"openslide.region[{len(found)}].{{}}")
        if box is None:
            break
        found.append(box)
    return tuple(found)


def _spacing(properties: Mapping[str, str]) -> Spacing:
    spacing = spacing_from_file(
        properties.get(openslide.PROPERTY_NAME_MPP_X),
        properties.get(openslide.PROPERTY_NAME_MPP_Y),
        # DICOM states the rows' distance first, which OpenSlide (4.0.0) calls that along x
        axes_known=properties.get(openslide.PROPERTY_NAME_VENDOR) != "dicom",
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
    """Properties that OpenSlide reports of a slide, by a list of allowed ones; no other is read."""
    properties = handle.properties
    sizes = [SizePx(*size) for size in handle.level_dimensions]
    levels = []
    for index, size in enumerate(sizes):
        width = _whole(properties.get(f"openslide.level[{index}].tile-width"))
        height = _whole(properties.get(f"openslide.level[{index}].tile-height"))
        tile = SizePx(width, height) if width and height else None
        levels.append(LevelInfo(size, snapped_downsample(sizes[0], size), tile))
    spacing = _spacing(properties)
    alike, squeezed = alike_levels(levels)
    regions, notes = _regions(properties), (*spacing.notes, *squeezed)
    if len(regions) > 1:
        notes += (
            f"its {len(regions)} scanned areas are read as one picture, as OpenSlide places them",
        )
    bounds = _bounds(properties, sizes[0])
    if bounds is not None and min(bounds.x, bounds.y) < 0:
        notes += (
            "its scanned area begins left of or above the canvas: tiles that lie there as a whole "
            "are not given by OpenSlide and are white",
        )
    icc = properties.get("openslide.icc-size")
    return SlideInfo(
        reader=reader,
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        levels=alike,
        mpp=spacing.mpp,
        mpp_source=spacing.source,
        objective_power=_positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        bounds_px=bounds,
        icc_profile_bytes=_whole(icc) or 0,
        notes=notes,
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
    """Open a file with OpenSlide, in one sentence where that fails.

    Raises
    ------
    SlideOpenError
        If it cannot be opened; ``subject`` is named in place of the file.
    """
    name = subject or path.name
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideOpenError(
            name,
            "is not a slide that can be opened (empty, cut off, or of another format)",
            "copy it again, or convert it",
        ) from None
    except (openslide.OpenSlideError, OSError, UnicodeError) as error:
        # OpenSlide's own words may hold the path: known ones are replaced by ours.
        for pattern, problem, remedy in _REASONS:
            if re.search(pattern, str(error), re.IGNORECASE):
                raise SlideOpenError(name, problem, remedy) from None
        raise SlideOpenError(
            name, "is damaged or incomplete", "copy the slide again with all its files"
        ) from None


class OpenSlideSlide(SlideBase):
    """A slide read by OpenSlide.

    Below level 0 OpenSlide places a region to the nearest level-0 pixel and interpolates, so
    that pixels there may be shifted by up to half a level-0 pixel.
    """

    def __init__(
        self,
        path: Path,
        mpp: float | None = None,
        *,
        subject: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._path = path
        self._subject = subject or path.name
        self._handle = open_handle(path, self._subject)
        self._lock = threading.Lock()
        info = describe(self._handle, "openslide")
        info = replace(info, notes=(*info.notes, *notes))
        software = self._handle.properties.get("tiff.Software")
        if is_own_map(software):
            self._handle.close()
            raise SlideOpenError(self._subject, OWN_MAP, OF_OWN_MAP)
        info = as_painted(info, software)
        self._info = with_override(info, mpp, self._subject)
        self._factors = tuple(self._handle.level_downsamples)
        self._areas = tuple(self._areas_of(level) for level in range(len(info.levels)))

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        """A box of level pixels, (height, width, 3) uint8; white where the slide holds no pixels.

        Raises
        ------
        SlideReadError
            If it cannot be decoded, or the box has no pixel.
        """
        check_box(box_px, self._subject)
        out = np.full((box_px.height, box_px.width, 3), 255, dtype=np.uint8)
        for area in self._areas[level]:
            part = box_px.intersection(area)
            if part is None:
                continue
            pixels = self._read_part(level, part)
            if part == box_px:
                return pixels
            x, y = part.x - box_px.x, part.y - box_px.y
            target = out[y : y + part.height, x : x + part.width]
            # Boxes of areas may overlap by a pixel: what is white in one may be in the other.
            np.minimum(target, pixels, out=target)
        return out

    def _read_part(self, level: int, part: BoxPx) -> RgbImage:
        # Away from zero: OpenSlide divides by the factor and rounds towards zero, so that a
        # position rounded to the nearest pixel may be read one level pixel too early (Leica).
        x, y = (self._level0_px(level, first) for first in (part.x, part.y))
        # It draws nothing of a region that lies wholly left of or above its canvas, where a
        # scanned area may begin: the region is extended until it reaches the canvas.
        width = max(part.width, 2 - part.x)
        height = max(part.height, 2 - part.y)
        pixels = over_white(self._read_region((x, y), level, (width, height)))
        return pixels[: part.height, : part.width]

    def _level0_px(self, level: int, first: int) -> int:
        position_px = math.ceil(abs(first) * self._factors[level] - _SLACK)
        return position_px if first >= 0 else -position_px

    def _areas_of(self, level: int) -> tuple[BoxPx, ...]:
        """The boxes of level pixels that hold pixels, each to be read by itself.

        OpenSlide rounds the distance of a region from a scanned area's corner towards zero,
        so that all pixels of a region that begins left of or above the area come one level
        pixel too early. Each area is therefore read from its own first pixel on, which
        OpenSlide puts at its corner's position on the level, rounded towards zero. What lies
        beside the areas is white.
        """
        info = self._info
        scale, size = info.levels[level].downsample, info.levels[level].size_px
        regions = _regions(self._handle.properties)
        if not regions and info.bounds_px is not None:
            regions = (info.bounds_px,)
        if not regions:
            return (BoxPx(0, 0, size.width, size.height),)
        areas = []
        for region in regions:
            x, y = math.trunc(region.x / scale), math.trunc(region.y / scale)
            right, bottom = math.ceil(region.right / scale), math.ceil(region.bottom / scale)
            areas.append(BoxPx(x, y, max(right - x, 1), max(bottom - y, 1)))
        return tuple(areas)

    def _read_region(
        self, corner_px: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        handle = self._handle
        try:
            return handle.read_region(corner_px, level, size)
        except openslide.OpenSlideError:
            # Errors latch: every later call on the handle fails. Another thread may have met
            # the damage, so that this region is read once more where nobody else reads. The
            # old handle closes itself when the last thread has let go of it.
            with self._lock:
                if self._handle is handle:
                    self._handle = open_handle(self._path, self._subject)
        try:
            with open_handle(self._path, self._subject) as own:
                return own.read_region(corner_px, level, size)
        except openslide.OpenSlideError:
            raise SlideReadError(
                self._subject, "pixels cannot be decoded", "copy the slide again"
            ) from None

    def icc_profile(self) -> bytes | None:
        profile: ImageCms.ImageCmsProfile | None = self._handle.color_profile
        return None if profile is None else bytes(profile.tobytes())

    def close(self) -> None:
        self._handle.close()
