"""What a slide is to the rest of the package, whichever library reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.system.closing import Closing
from pathology_scaat.system.representation import Described, shrunk

RgbImage = NDArray[np.uint8]
"""(height, width, 3) uint8, sRGB as stored (no ICC profile applied)."""


@dataclass(frozen=True)
class LevelInfo:
    """One pyramid level.

    ``downsample`` is level-0 pixels per level pixel, snapped to the whole factor it stands
    for (:func:`pathology_scaat.geometry.snapped_downsample`); ``tile_size_px`` is the native
    tile of the file where it is known.
    """

    size_px: SizePx
    downsample: float
    tile_size_px: SizePx | None = None


@dataclass(frozen=True)
class SlideInfo:
    """What may be known about a slide: geometry and origin, never identity.

    Attributes
    ----------
    reader : str
        Name of the reader that serves it ("tiff", "openslide", "ngff", "czi", "tiatoolbox").
    vendor : str
        Format family as OpenSlide names it ("aperio", "mirax", "generic-tiff", ...).
    levels : tuple of LevelInfo
        Pyramid levels, finest first.
    mpp : float or None
        µm per level-0 pixel, None where nothing plausible is known.
    mpp_source : str
        Where the µm/px came from ("slide", "manifest", "none") and, in words, why a value in
        the file was not believed.
    objective_power : float or None
        Magnification of the objective as the file states it.
    bounds_px : BoxPx or None
        The scanned area on level 0 where the scanner states one (MIRAX, Leica).
    icc_profile_bytes : int
        Size of the embedded ICC profile, 0 where there is none.
    notes : tuple of str
        What was assumed or left out in reading it, in words.
    images : tuple of str
        Every image of the file in words, where it holds several.
    """

    reader: str
    vendor: str
    levels: tuple[LevelInfo, ...]
    mpp: float | None
    mpp_source: str
    objective_power: float | None = None
    bounds_px: BoxPx | None = None
    icc_profile_bytes: int = 0
    notes: tuple[str, ...] = field(default=())
    images: tuple[str, ...] = ()

    @property
    def size_px(self) -> SizePx:
        return self.levels[0].size_px

    @property
    def frame_px(self) -> BoxPx:
        """The box that is tiled and that viewers show: the scanner's bounds, else the canvas."""
        return self.bounds_px or BoxPx(0, 0, self.size_px.width, self.size_px.height)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return tuple(level.downsample for level in self.levels)


@runtime_checkable
class Slide(Protocol):
    """An open slide. Not picklable: open one in each worker."""

    @property
    def info(self) -> SlideInfo: ...

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        """Pixels of a box in *level* pixels, (height, width, 3) uint8.

        What lies outside the level or is transparent is white. Raises
        :class:`~pathology_scaat.errors.SlideReadError` where pixels cannot be decoded, and
        stays usable afterwards.
        """
        ...

    def icc_profile(self) -> bytes | None:
        """The embedded ICC profile as stored, or None."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


MOST_THUMBNAIL_PIXELS = 16_000_000
"""Of the coarsest level; a slide without small levels is shown without a picture."""


class SlideBase(Closing, Described):
    """What the readers share: the end of a ``with`` block, and how a slide shows itself.

    A file's name may hold a patient's: it is not shown.
    """

    def _facts(self: Slide) -> dict[str, str]:
        info = self.info
        size = info.size_px
        spacing = "µm/px not known" if info.mpp is None else f"at {info.mpp:.4g} µm/px"
        return {
            "size": f"{size.width:,} x {size.height:,} px {spacing}",
            "levels": str(len(info.levels)),
            "format": info.vendor,
        }

    def _thumbnail(self: Slide) -> RgbImage | None:
        coarsest = len(self.info.levels) - 1
        size = self.info.levels[coarsest].size_px
        if size.width * size.height > MOST_THUMBNAIL_PIXELS:
            return None
        try:
            return shrunk(self.read_level(coarsest, BoxPx(0, 0, size.width, size.height)))
        except SlideReadError:
            return None
