"""tiatoolbox: what OpenSlide cannot open (JPEG 2000 files, odd flavours of DICOM).

Its import takes seconds, so that this module is imported only for such files.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx, snapped_downsample
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideBase, SlideInfo
from pathology_scaat.slides.painted import OF_OWN_MAP, OWN_MAP, as_painted, is_own_map
from pathology_scaat.slides.pyramid import alike_levels
from pathology_scaat.slides.spacing import spacing_from_file, with_override
from pathology_scaat.slides.tiff_reader import TIFF_ERRORS
from pathology_scaat.slides.tiles import check_box

NO_MPP = "none: tiatoolbox finds no µm/px in the file"


def _family(vendor: object) -> str:
    """The format family; tiatoolbox gives none, or the word, of what it does not know."""
    name = str(vendor or "").strip().lower()
    return "unknown" if name in ("", "none") else name


def _software_of(path: Path) -> str:
    """The TIFF tag Software of a file's first image; empty where there is none, or no TIFF."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return str(tiff.pages.first.tags.valueof("Software") or "")
    except TIFF_ERRORS:
        return ""


def _import_reader() -> Any:
    from tiatoolbox.wsicore.wsireader import WSIReader

    # It announces every second codec at import and every µm/px it cannot find.
    logging.getLogger("tiatoolbox").setLevel(logging.ERROR)
    return WSIReader


class TiatoolboxSlide(SlideBase):
    """A slide read by tiatoolbox.

    Raises
    ------
    SlideOpenError
        If tiatoolbox cannot open it.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self._name = path.name
        reader = _import_reader()
        try:
            self._reader = reader.open(path)
            meta = self._reader.info
            sizes = [SizePx(int(w), int(h)) for w, h in meta.level_dimensions]
        except Exception as error:
            # It raises whatever its readers raise; all of it means that it cannot be opened.
            logging.getLogger(__name__).debug("tiatoolbox: %s", type(error).__name__)
            raise SlideOpenError(
                path.name, "is not a slide that can be opened", "convert it to a tiled TIFF"
            ) from None
        stated = (None, None) if meta.mpp is None else tuple(meta.mpp)
        spacing = spacing_from_file(*stated)
        if stated == (None, None):  # the file may state it where it does not look
            spacing = replace(spacing, source=NO_MPP)
        levels, squeezed = alike_levels(
            [LevelInfo(s, snapped_downsample(sizes[0], s)) for s in sizes]
        )
        info = SlideInfo(
            reader="tiatoolbox",
            vendor=_family(meta.vendor),
            levels=levels,
            mpp=spacing.mpp,
            mpp_source=spacing.source,
            objective_power=meta.objective_power,
            notes=(*spacing.notes, *squeezed),
        )
        # It does not pass on who made the file, which is asked by itself.
        software = _software_of(path)
        if is_own_map(software):
            self.close()
            raise SlideOpenError(path.name, OWN_MAP, OF_OWN_MAP)
        self._info = with_override(as_painted(info, software), mpp, path.name)

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        """A box of level pixels, (height, width, 3) uint8; white beyond the level.

        Raises
        ------
        SlideReadError
            If it cannot be decoded, or the box has no pixel.
        """
        check_box(box_px, self._name)
        out = np.full((box_px.height, box_px.width, 3), 255, dtype=np.uint8)
        size = self._info.levels[level].size_px
        inside = box_px.intersection(BoxPx(0, 0, size.width, size.height))
        if inside is None:
            return out
        factor = self._info.levels[level].downsample
        try:
            pixels = self._reader.read_rect(
                (round(inside.x * factor), round(inside.y * factor)),
                (inside.width, inside.height),
                resolution=level,
                units="level",
            )
        except Exception:
            raise SlideReadError(
                self._name, "pixels cannot be decoded", "copy the slide again"
            ) from None
        x, y = inside.x - box_px.x, inside.y - box_px.y
        out[y : y + inside.height, x : x + inside.width] = np.asarray(pixels)[..., :3]
        return out

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None:
        for name in ("openslide_wsi", "tiff"):
            handle = getattr(self._reader, name, None)
            if handle is not None:
                handle.close()
