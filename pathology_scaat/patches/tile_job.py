"""Tiling a slide as a job that any engine can run."""

from __future__ import annotations

from pathology_scaat.patches.config import TileJob, TileResult


def tile_job(job: TileJob) -> TileResult:
    """Tile one slide in this process.

    Raises
    ------
    ScaatError
        As :func:`pathology_scaat.patches.tiling.tile_slide`.
    """
    # Whoever gives out the jobs, and a cluster's scheduler, read this module: without the readers
    # of slides and the kernels.
    from pathology_scaat.patches.tiling import tile_slide

    return tile_slide(job)
