"""In whose pixels an exported file speaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches.schema import SlideGeometry


@dataclass(frozen=True)
class ExportFrame:
    """The frame of a program that opens the slide.

    Attributes
    ----------
    origin : str
        "bounds" (cropped to the scanned area, as QuPath does) or "full".
    offset_x_px, offset_y_px : int
        What is subtracted from level-0 coordinates.
    width_px, height_px : int
        Size of the image as the program opens it.
    """

    origin: str
    offset_x_px: int
    offset_y_px: int
    width_px: int
    height_px: int

    @classmethod
    def of(cls, slide: SlideGeometry, origin: str) -> ExportFrame:
        box = slide.frame_px
        if origin == "full":
            box = BoxPx(0, 0, slide.size_px.width, slide.size_px.height)
        return cls(origin, box.x, box.y, box.width, box.height)

    def boxes(self, edges_px: NDArray[np.integer]) -> NDArray[np.int64]:
        """Level-0 boxes (N, 4) as left, top, right, bottom, in this frame and clipped to it."""
        shift = np.array([self.offset_x_px, self.offset_y_px] * 2)
        high = np.array([self.width_px, self.height_px] * 2)
        clipped: NDArray[np.int64] = np.clip(edges_px - shift, 0, high)
        return clipped
