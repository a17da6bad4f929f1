"""All coordinate arithmetic, once.

Three frames occur, and each name says which one it is in:

* **level-0 pixels** (``*_px`` on slides, origins in stores): x right, y down, integers
  unless said otherwise, relative to the full canvas as OpenSlide sees it;
* **level pixels** (``level_*``): the same at a pyramid level of the file;
* **output pixels** (``patch_size_px``, ``step_px``): the slide resampled to the effective
  µm/px, a *virtual level*. Patches are cut from it at whole output pixels, so that neither
  overlap nor an odd µm/px ever makes boxes drift: a level-0 origin is computed from the
  patch's index in floating point and rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import UsageError

MICRONS_PER_PX_AT_1X = 10.0
"""µm/px of a 1x objective by convention (20x is 0.5 µm/px, 40x is 0.25 µm/px)."""

PLAUSIBLE_MPP = (0.01, 100.0)
"""µm/px outside this range is taken for a damaged header, never for a slide."""


def mpp_from_magnification(magnification: float) -> float:
    """µm/px that an objective magnification stands for (10 / magnification).

    Raises
    ------
    UsageError
        If the magnification is not a positive number.
    """
    if not math.isfinite(magnification) or magnification <= 0:
        raise UsageError("--mag", f"{magnification} is not a magnification", "give e.g. --mag 20")
    return MICRONS_PER_PX_AT_1X / magnification


def is_plausible_mpp(mpp: float | None) -> bool:
    """Whether a number can be the µm/px of a whole-slide image."""
    return mpp is not None and math.isfinite(mpp) and PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]


@dataclass(frozen=True)
class SizePx:
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class BoxPx:
    """An axis-aligned box of whole pixels, half-open: ``x <= column < x + width``."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def area(self) -> int:
        return max(self.width, 0) * max(self.height, 0)

    @property
    def size(self) -> SizePx:
        return SizePx(self.width, self.height)

    def shifted(self, dx: int, dy: int) -> BoxPx:
        return BoxPx(self.x + dx, self.y + dy, self.width, self.height)

    def intersection(self, other: BoxPx) -> BoxPx | None:
        """The common part of two boxes, or None where they do not meet."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        if right <= x or bottom <= y:
            return None
        return BoxPx(x, y, right - x, bottom - y)


def snapped_downsample(full: SizePx, level: SizePx) -> float:
    """Downsample factor of a pyramid level, snapped to the whole number it stands for.

    Levels are made by whole factors and a rounded size, so that the ratio of the sizes is
    off by up to one level pixel: over a 100,000 px slide that is a drift of several level-0
    pixels. Where a whole factor explains both sizes within one pixel, it is the factor.
    """
    ratio = (full.width / level.width + full.height / level.height) / 2
    whole = round(ratio)
    fits = (
        whole >= 1
        and abs(full.width / whole - level.width) < 1
        and abs(full.height / whole - level.height) < 1
    )
    return float(whole) if fits else ratio


@dataclass(frozen=True)
class ReadPlan:
    """From which pyramid level, and by which factor, an asked-for µm/px is made.

    Attributes
    ----------
    level : int
        Pyramid level that is read.
    level_downsample : float
        Level-0 pixels per pixel of that level.
    shrink : float
        Level pixels per output pixel (1 means: taken as it is; above 1: area-averaged).
    requested_mpp, effective_mpp : float
        µm/px asked for and delivered; they differ only within the tolerance.
    """

    level: int
    level_downsample: float
    shrink: float
    requested_mpp: float
    effective_mpp: float

    @property
    def scale(self) -> float:
        """Level-0 pixels per output pixel."""
        return self.level_downsample * self.shrink


def plan_read(
    slide_mpp: float,
    level_downsamples: tuple[float, ...],
    requested_mpp: float,
    tolerance: float = 0.02,
) -> ReadPlan:
    """Choose the level to read for a requested µm/px.

    A level within ``tolerance`` (a ratio) of the request is used as it is; otherwise the
    coarsest level that is finer than the request is area-averaged down to it. A request
    finer than the scan is served by upsampling level 0 (``shrink`` below 1).

    Parameters
    ----------
    slide_mpp : float
        µm per level-0 pixel.
    level_downsamples : tuple of float
        Level-0 pixels per pixel of each level.
    requested_mpp : float
        µm per output pixel.
    tolerance : float

    Raises
    ------
    UsageError
        If a µm/px is outside :data:`PLAUSIBLE_MPP`.
    """
    for name, value in (("slide µm/px", slide_mpp), ("--mpp", requested_mpp)):
        if not is_plausible_mpp(value):
            raise UsageError(name, f"{value} is not a plausible µm/px", "give e.g. --mpp 0.5")
    mpps = [slide_mpp * d for d in level_downsamples]
    nearest = min(range(len(mpps)), key=lambda i: abs(math.log(mpps[i] / requested_mpp)))
    if abs(mpps[nearest] / requested_mpp - 1) <= tolerance:
        return ReadPlan(nearest, level_downsamples[nearest], 1.0, requested_mpp, mpps[nearest])
    finer = [i for i, mpp in enumerate(mpps) if mpp < requested_mpp]
    level = max(finer, key=lambda i: mpps[i]) if finer else 0
    return ReadPlan(
        level,
        level_downsamples[level],
        requested_mpp / mpps[level],
        requested_mpp,
        requested_mpp,
    )


@dataclass(frozen=True)
class PatchGrid:
    """A regular grid of square patches on the virtual level of a slide.

    Attributes
    ----------
    anchor_x_px, anchor_y_px : float
        Level-0 position of output pixel (0, 0).
    scale : float
        Level-0 pixels per output pixel.
    patch_size_px, step_px : int
        Patch side and distance between neighbours, in output pixels.
    n_cols, n_rows : int
        Grid size; the last column and row may reach beyond the region (white there).
    """

    anchor_x_px: float
    anchor_y_px: float
    scale: float
    patch_size_px: int
    step_px: int
    n_cols: int
    n_rows: int

    @property
    def patch_size_level0_px(self) -> float:
        return self.patch_size_px * self.scale

    @property
    def step_level0_px(self) -> float:
        return self.step_px * self.scale

    @property
    def n_patches(self) -> int:
        return self.n_cols * self.n_rows

    def exact_origins_px(self, grid_index: NDArray[np.integer]) -> NDArray[np.float64]:
        """Exact level-0 top-left corners, (N, 2) float64 as x, y, of (N, 2) column, row pairs."""
        steps: NDArray[np.float64] = np.asarray(grid_index, dtype=np.float64)
        anchor = np.array([self.anchor_x_px, self.anchor_y_px], dtype=np.float64)
        return anchor + steps * (self.step_px * self.scale)

    def origins_px(self, grid_index: NDArray[np.integer]) -> NDArray[np.int64]:
        """Level-0 top-left corners rounded once, (N, 2) int64 as x, y.

        ``grid_index`` is (N, 2), column and row.
        """
        return np.floor(self.exact_origins_px(grid_index) + 0.5).astype(np.int64)

    def all_indices(self) -> NDArray[np.int32]:
        """(n_cols * n_rows, 2) int32 of column, row in slide order (row by row)."""
        rows, cols = np.mgrid[0 : self.n_rows, 0 : self.n_cols]
        return np.stack([cols.ravel(), rows.ravel()], axis=1).astype(np.int32)


def plan_grid(region: BoxPx, plan: ReadPlan, patch_size_px: int, step_px: int) -> PatchGrid:
    """Lay a grid over a level-0 region so that every pixel of it is covered.

    Where a level is used as it is, the anchor is moved to that level's nearest pixel;
    where the slide is resampled, it is the region's corner exactly.

    Parameters
    ----------
    region : BoxPx
        In level-0 pixels.
    plan : ReadPlan
    patch_size_px, step_px : int
        In output pixels.

    Raises
    ------
    UsageError
        If the patch size or the step is below 1 px, or the step is absurdly long.
    """
    if patch_size_px < 1 or step_px < 1 or step_px > patch_size_px * 64:
        raise UsageError(
            "--patch-size/--overlap",
            f"a patch of {patch_size_px} px with a step of {step_px} px is impossible",
            "give a positive patch size and an overlap below it",
        )
    if plan.shrink == 1.0:
        snap = plan.level_downsample
        anchor_x, anchor_y = (math.floor(v / snap + 0.5) * snap for v in (region.x, region.y))
    else:
        anchor_x, anchor_y = float(region.x), float(region.y)

    def count(anchor: float, end: int) -> int:
        extent_px = (end - anchor) / plan.scale
        return max(1, math.ceil((extent_px - patch_size_px) / step_px - 1e-9) + 1)

    return PatchGrid(
        anchor_x_px=anchor_x,
        anchor_y_px=anchor_y,
        scale=plan.scale,
        patch_size_px=patch_size_px,
        step_px=step_px,
        n_cols=count(anchor_x, region.right),
        n_rows=count(anchor_y, region.bottom),
    )


def parse_overlap(text: str, patch_size_px: int) -> int:
    """Step in output pixels from an overlap given as a ratio (``0.5``) or pixels (``64px``).

    Raises
    ------
    UsageError
        If it is not a number, or an overlap as large as the patch.
    """
    cleaned = text.strip().lower()
    try:
        overlap_px = (
            float(cleaned[:-2]) if cleaned.endswith("px") else float(cleaned) * patch_size_px
        )
    except ValueError:
        overlap_px = math.nan
    step_px = round(patch_size_px - overlap_px) if math.isfinite(overlap_px) else 0
    if not (0 <= overlap_px < patch_size_px) or step_px < 1:
        raise UsageError(
            "--overlap",
            f"'{text}' is not an overlap",
            "give a ratio from 0 to below 1, or e.g. 64px",
        )
    return step_px
