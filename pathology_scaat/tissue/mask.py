"""Where tissue is on a slide, from a thumbnail made of the pyramid's own pixels.

The thumbnail never comes from an associated image: those carry labels with patients' names.
The method in words: the glass is the brightest common colour; what absorbs light in a
*coloured* way against it is stain, however pale; what is grey is glass, shadow or slide edge;
what is black is a border; what is green, blue or pure red and smooth is ink
(:mod:`pathology_scaat.tissue.ink`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathology_scaat.errors import UsageError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides.base import RgbImage, Slide
from pathology_scaat.tissue.config import TissueConfig
from pathology_scaat.tissue.overlay import paint_overlay, write_png
from pathology_scaat.tissue.segmentation import classify_pixels, clean_mask
from pathology_scaat.tissue.thumbnail import make_thumbnail

NOMINAL_MPP = 0.5
"""µm per level-0 pixel assumed for sizes in µm where a slide states none."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue on a slide at thumbnail resolution.

    Attributes
    ----------
    mask : (h, w) bool array
        True where tissue is.
    scale_px : float
        Level-0 pixels per mask pixel.
    frame_px : BoxPx
        Level-0 box that the mask covers (the scanner's bounds, else the canvas).
    thumbnail : (h, w, 3) uint8 array
        The picture that the mask was made from.
    flags : tuple of str
        Quality words, e.g. "no-tissue", "blank-white", "blank-black", "ink",
        "mostly-ink" (more ink than stain), "black-border", "dark-background", "no-glass",
        "greyscale", "pale", "sampled", "unreadable-area", "unreadable".
    origin_px : tuple of float
        Exact level-0 position of mask pixel (0, 0); at most one level pixel left of or above
        ``frame_px``.
    ink : (h, w) bool array
        Where ink was seen (left out of the mask when ``drop_ink``).
    notes : tuple of str
        Sentences about a mask that was given.
    """

    mask: NDArray[np.bool_]
    scale_px: float
    frame_px: BoxPx
    thumbnail: RgbImage
    flags: tuple[str, ...]
    origin_px: tuple[float, float]
    ink: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    @property
    def tissue_share(self) -> float:
        """Share of the frame that is tissue, 0 to 1."""
        return float(self.mask.mean()) if self.mask.size else 0.0

    @cached_property
    def _integral(self) -> NDArray[np.int32]:
        table: NDArray[np.int32] = np.asarray(
            cv2.integral(self.mask.view(np.uint8), sdepth=cv2.CV_32S)
        )
        return table

    def _area_up_to(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tissue area left of x and above y (mask pixels); bilinear, hence exact."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0.0, width), np.clip(y, 0.0, height)
        col = np.minimum(x.astype(np.int64), width - 1)
        row = np.minimum(y.astype(np.int64), height - 1)
        fx, fy = x - col, y - row
        table = self._integral
        top = table[row, col] * (1 - fx) + table[row, col + 1] * fx
        low = table[row + 1, col] * (1 - fx) + table[row + 1, col + 1] * fx
        area: NDArray[np.float64] = top * (1 - fy) + low * fy
        return area

    def fractions(self, origins_px: ArrayLike, side_px: float) -> NDArray[np.float32]:
        """Tissue share of square boxes, exact for boxes at any fraction of a pixel.

        Parameters
        ----------
        origins_px : (N, 2) array of float
            Level-0 top-left corners, x and y.
        side_px : float
            Side of the boxes in level-0 pixels.

        Returns
        -------
        (N,) float32 array
            0 to 1; what lies outside the mask counts as no tissue.

        Raises
        ------
        UsageError
            If the side is not positive and finite.
        """
        if not (np.isfinite(side_px) and side_px > 0):
            raise UsageError("patch side", f"{side_px} is not a length in pixels")
        origins = np.asarray(origins_px, dtype=np.float64).reshape(-1, 2)
        if self.mask.size == 0:
            return np.zeros(len(origins), dtype=np.float32)
        left, top = ((origins - np.asarray(self.origin_px)) / self.scale_px).T
        side = side_px / self.scale_px
        area = (
            self._area_up_to(left + side, top + side)
            - self._area_up_to(left, top + side)
            - self._area_up_to(left + side, top)
            + self._area_up_to(left, top)
        )
        return np.clip(area / side**2, 0.0, 1.0).astype(np.float32)


def find_tissue(
    slide: Slide, config: TissueConfig | None = None, *, threads: int = 1
) -> TissueMask:
    """Find the tissue of an open slide.

    Memory and time are bounded whatever size the slide claims to have: the pyramid's
    coarsest level that is fine enough is read in bands; a level above ``read_budget_mpx``
    (a huge scan without pyramid) is sampled in small windows instead, which is flagged.

    Parameters
    ----------
    slide : Slide
        An open slide.
    config : TissueConfig, optional
        Settings; the defaults suit the stains of docs/tissue.md.
    threads : int
        How many threads read the pyramid; the result is the same.

    Returns
    -------
    TissueMask
        Empty with a flag (never an error) where there is no tissue. Areas that cannot be
        decoded count as tissue, so that tiling meets and counts them; a slide of which nothing
        can be decoded has none ("unreadable").
    """
    config = config or TissueConfig()
    mpp = slide.info.mpp or NOMINAL_MPP
    budget_px = round(config.read_budget_mpx * 1e6)
    made = make_thumbnail(slide, config.mpp / mpp, config.max_side_px, budget_px, threads)
    pixels = classify_pixels(made.rgb, made.readable, config.sensitivity)
    px_um = made.scale_px * mpp
    stain = pixels.stain & ~pixels.ink if config.drop_ink else pixels.stain | pixels.ink
    mask = clean_mask(
        stain,
        dark=pixels.dark,
        ink=pixels.ink if config.drop_ink else np.zeros_like(pixels.ink),
        min_area_px=config.min_area_um2 / px_um**2,
        max_hole_px=config.max_hole_um2 / px_um**2,
        close_radius_px=config.close_radius_um / px_um,
        grow=made.sampled,
    )
    flags = list(pixels.flags)
    if made.readable.any() and not made.sampled:
        mask |= ~made.readable
    if made.sampled:
        flags.append("sampled")
    if not made.readable.any():
        flags = ["unreadable"]
    elif not made.readable.all():
        flags.append("unreadable-area")
    if not mask.any():
        flags.append("no-tissue")
    return TissueMask(
        mask=mask,
        scale_px=made.scale_px,
        frame_px=slide.info.frame_px,
        thumbnail=made.rgb,
        flags=tuple(dict.fromkeys(flags)),
        origin_px=made.origin_px,
        ink=pixels.ink,
    )


def save_tissue_overlay(
    mask: TissueMask, path: Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the thumbnail with the tissue outlined, for a person to check, as PNG.

    What was left out is paled, tissue is outlined in green, ink in orange. ``metadata``
    (fingerprint, parameters) goes into a text chunk as JSON. Equal input gives equal bytes.
    """
    stated = {**(metadata or {}), "flags": list(mask.flags), "scale_px": mask.scale_px}
    write_png(paint_overlay(mask.thumbnail, mask.mask, mask.ink), path, stated)
