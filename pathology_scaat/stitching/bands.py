"""Bands of a map as jobs: each computes and writes whole shards that no other job touches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.execution.engine import EngineConfig, map_jobs
from pathology_scaat.geometry import BoxPx
from pathology_scaat.stitching.blend import Band, Placement, blend_block
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.ome_zarr import BLOCK_PX, halve_rows, level_array
from pathology_scaat.stitching.source import SaliencySource
from pathology_scaat.stitching.statistics import Histogram

IN_THIS_PROCESS = EngineConfig(workers=0, scheduler=None, cluster=None)


@dataclass(frozen=True)
class BandJob:
    """One or more rows of shards of level 0, as a value that travels to a worker."""

    saliency_path: Path
    map_path: Path
    config: StitchConfig
    scale_px: float
    band_offsets: tuple[int, ...]


@dataclass(frozen=True)
class HalveJob:
    """One row of shards of a coarser level."""

    map_path: Path
    ngff: str
    level: int
    top: int


def run_band(job: BandJob) -> list[Histogram]:
    """Blend and write bands; returns the histogram of each channel."""
    source = SaliencySource(job.saliency_path)
    array = level_array(job.map_path, 0, job.config.ngff, write=True)
    n_channels, height, width = array.shape
    placement = Placement.of(source, job.scale_px)
    histograms = [Histogram() for _ in range(n_channels)]
    writing: Any = None
    for top in job.band_offsets:
        bottom = min(top + BLOCK_PX, height)
        band = Band(source, placement, (top, bottom), job.config.memory_budget_bytes)
        for x in range(0, width, BLOCK_PX):
            box = BoxPx(x, top, min(BLOCK_PX, width - x), bottom - top)
            values = blend_block(band, placement, box, job.config)
            for histogram, channel in zip(histograms, values, strict=True):
                histogram.add(channel)
            # a block is compressed while the next is blended; never more than one waits
            if writing is not None:
                writing.result()
            writing = array[:, box.y : box.bottom, box.x : box.right].write(values)
    if writing is not None:
        writing.result()
    return histograms


def run_halve(job: HalveJob) -> None:
    fine = level_array(job.map_path, job.level - 1, job.ngff)
    coarse = level_array(job.map_path, job.level, job.ngff, write=True)
    halve_rows(fine, coarse, job.top)


def fill_level0(jobs: Sequence[BandJob], n_channels: int, engine: EngineConfig) -> list[Histogram]:
    """Run all bands; counts add up the same in whatever order bands end.

    Raises
    ------
    ScaatError
        The first error of any band.
    """
    total = [Histogram() for _ in range(n_channels)]
    # Closed before the error leaves: no worker may write into a map that is being removed.
    with closing(map_jobs(run_band, jobs, engine)) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            for mine, theirs in zip(total, outcome.result or [], strict=True):
                mine.merge(theirs)
    return total


def fill_pyramid(map_path: Path, heights: Sequence[int], ngff: str, engine: EngineConfig) -> None:
    """Fill levels 1 and up, each from the one below; ``heights`` are of all levels."""
    for level, height in enumerate(heights[1:], start=1):
        jobs = [HalveJob(map_path, ngff, level, top) for top in range(0, height, BLOCK_PX)]
        # a small level is done sooner than workers are started
        here = engine if len(jobs) > 4 else IN_THIS_PROCESS
        with closing(map_jobs(run_halve, jobs, here)) as outcomes:
            for outcome in outcomes:
                if outcome.error is not None:
                    raise outcome.error
