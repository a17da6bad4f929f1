"""How large a tiling job is, before it is begun: patches, bytes on the disk, time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.errors import ScaatError, StoreError
from pathology_scaat.geometry import plan_grid, plan_read
from pathology_scaat.patches.config import TileConfig, TileJob
from pathology_scaat.patches.slide_jpeg import tile_source
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.spacing import check_enlargement, require_mpp, with_fallback
from pathology_scaat.system.amounts import in_bytes, in_time

MAX_OPENED = 64
"""Slides that are opened to plan a run; the others are taken to be like these."""

TISSUE_SHARE = 0.3
"""Share of the grid that is tissue on a usual slide."""

LEAST_TISSUE_SHARE = 0.01
"""Share of the grid that is tissue on a slide with a needle biopsy."""

LEAST_COMPRESSED = 0.35
MEAN_COMPRESSED = 0.85
"""Bytes of a stored patch by those of its pixels: tissue, lossless; and the least, mostly glass."""

LEAST_JPEG = 0.005
MEAN_JPEG = 0.1
"""The same of patches that are the slide's own JPEG tiles."""

LEVEL_PX_PER_SECOND = 40e6
"""Pixels of the level that is read, of those that become patches, by one core in a second."""


@dataclass(frozen=True)
class TilePlan:
    """What a job comes to.

    Attributes
    ----------
    n_slides : int
        Slides to tile.
    n_grid : int
        Patches of their grids, glass included: the most that can be cut.
    patch_size_px : int
        Side of a patch.
    shrink : float
        Level pixels per output pixel, on average.
    n_opened, n_unusable : int
        Slides that were looked at (the rest is taken to be like them), and those of them that
        cannot be opened or used at the asked-for µm/px.
    only_labelled : bool
        Whether only patches with a label are kept: how many is not known beforehand.
    kept_share : float
        Share of the slides whose own JPEG tiles are kept.
    """

    n_slides: int
    n_grid: int
    patch_size_px: int
    shrink: float
    n_opened: int
    n_unusable: int = 0
    only_labelled: bool = False
    kept_share: float = 0.0

    @property
    def patch_bytes(self) -> int:
        return 3 * self.patch_size_px**2

    @property
    def expected_patches(self) -> int:
        return round(self.n_grid * TISSUE_SHARE)

    @property
    def expected_bytes(self) -> int:
        return round(
            self.expected_patches * self.patch_bytes * self._between(MEAN_COMPRESSED, MEAN_JPEG)
        )

    @property
    def least_bytes(self) -> int:
        """Less than this no cohort takes; 0 where annotations may leave next to nothing."""
        if self.only_labelled:
            return 0
        compressed = self._between(LEAST_COMPRESSED, LEAST_JPEG)
        return round(self.n_grid * LEAST_TISSUE_SHARE * self.patch_bytes * compressed)

    def _between(self, lossless: float, jpeg: float) -> float:
        return lossless + self.kept_share * (jpeg - lossless)

    @property
    def core_seconds(self) -> float:
        level_px = self.expected_patches * (self.patch_size_px * max(self.shrink, 1.0)) ** 2
        return level_px / LEVEL_PX_PER_SECOND

    def sentence(self, free_bytes: int | None) -> str:
        """One line for the user; without the bytes of patches where those are not kept."""
        slides = f"{self.n_slides:,} slide" + ("s" if self.n_slides != 1 else "")
        if self.n_opened < self.n_slides:
            slides += f" (by {self.n_opened} of them)"
        if self.n_unusable:
            slides += f", {self.n_unusable} of which cannot be used"
        kept = "read from the slides and not kept"
        if free_bytes is not None:
            kept = f"{in_bytes(self.expected_bytes)} of {in_bytes(free_bytes)} free"
        return (
            f"plan: {slides}, about {self.expected_patches:,} patches if "
            f"{TISSUE_SHARE:.0%} is tissue (at most {self.n_grid:,}), {kept}; reading them takes "
            f"about {in_time(self.core_seconds)} of one core, what a model computes comes on top"
        )


def grid_of(job: TileJob) -> tuple[int, float]:
    """Patches of the grid of one slide, and level pixels per output pixel.

    Raises
    ------
    SlideError
        If the slide cannot be opened or used at the asked-for µm/px.
    """
    n_patches, shrink, _ = _grid_and_source(job)
    return n_patches, shrink


def _grid_and_source(job: TileJob) -> tuple[int, float, bool]:
    """The same, and whether the slide's own JPEG tiles are kept."""
    config, name = job.config, slide_location(job.slide_path).name
    with open_slide(job.slide_path, reader=config.reader, mpp=job.mpp) as slide:
        info = with_fallback(slide.info, config.slide_mpp, name)
        mpp = require_mpp(info, name)
        check_enlargement(mpp, config.mpp, config.mpp_tolerance, config.allow_upsampling, name)
        plan = plan_read(mpp, info.level_downsamples, config.mpp, config.mpp_tolerance)
        grid = plan_grid(info.frame_px, plan, config.patch_size_px, config.step_px)
        source, _ = tile_source(config, slide, plan, grid)
    return grid.n_patches, plan.shrink, source is not None


def plan_tiling(jobs: Sequence[TileJob], config: TileConfig) -> TilePlan:
    """Plan a run by its slides' sizes; a slide that cannot be used fails later, alone.

    At most :data:`MAX_OPENED` slides are opened, evenly spread over the cohort.
    """
    sample = jobs[:: max(1, -(-len(jobs) // MAX_OPENED))]
    found = []
    for job in sample:
        try:
            found.append(_grid_and_source(job))
        except ScaatError:
            continue
    mean = sum(n for n, _, _ in found) / len(sample) if sample else 0.0
    shrink = sum(s for _, s, _ in found) / len(found) if found else 1.0
    kept = sum(k for _, _, k in found) / len(found) if found else 0.0
    return TilePlan(
        len(jobs), round(mean * len(jobs)), config.patch_size_px, shrink, len(sample),
        len(sample) - len(found), config.only_labelled, kept,
    )  # fmt: skip


def free_bytes(folder: Path) -> int:
    """Bytes free where a folder is or will be."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return shutil.disk_usage(existing).free


def check_disk_space(plan: TilePlan, folder: Path) -> str:
    """The sentence about a plan, where the disk holds it.

    Raises
    ------
    StoreError
        If even far fewer patches than expected would not fit.
    """
    free = free_bytes(folder)
    if plan.least_bytes > free:
        raise StoreError(
            "--out",
            f"the disk does not hold this job: about {plan.expected_patches:,} patches "
            f"({in_bytes(plan.expected_bytes)}), where {in_bytes(free)} are free",
            "take a larger disk, less --overlap, or a coarser --mpp",
        )
    return plan.sentence(free)


def check_slide_disk_space(
    n_patches: int, config: TileConfig, folder: Path, subject: str, *, kept: bool = False
) -> None:
    """Refuse a slide whose chosen patches cannot fit, before the first is written.

    ``kept`` tells that they are the slide's own JPEG tiles.

    Raises
    ------
    StoreError
        If they do not fit even when compressed as blank glass is.
    """
    least = LEAST_JPEG if kept else LEAST_COMPRESSED
    needed = n_patches * 3 * config.patch_size_px**2 * least
    free = free_bytes(folder)
    if needed > free:
        raise StoreError(
            subject,
            f"its {n_patches:,} patches take at least {in_bytes(needed)}, where "
            f"{in_bytes(free)} are free",
            "take a larger disk, less --overlap, or a coarser --mpp",
        )
