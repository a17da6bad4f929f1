"""``scaat stitch``: patch saliency into slide maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.artifacts.leases import LeasedJob
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline.reporting import Reporter, StageReport
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.stage import run_stage, slides_to_do
from pathology_scaat.stitching import StitchConfig

if TYPE_CHECKING:
    from pathology_scaat.stitching import StitchResult


@dataclass(frozen=True)
class StitchJob:
    """One slide's stitching as a value that travels to a worker."""

    saliency_path: Path
    map_path: Path
    config: StitchConfig
    overwrite: bool


def run_stitch_job(job: StitchJob) -> StitchResult:
    """Stitch one slide in this process.

    Raises
    ------
    StoreError
        As :func:`pathology_scaat.stitching.stitch.stitch_slide`.
    """
    # Whoever gives out the jobs, and a cluster's scheduler, read this module: without zarr.
    from pathology_scaat.stitching import stitch_slide

    return stitch_slide(job.saliency_path, job.map_path, job.config, overwrite=job.overwrite)


def stitch_job_of(
    out: Path, config: StitchConfig, overwrite: bool
) -> Callable[[str], LeasedJob[StitchJob, StitchResult]]:
    """How a slide is stitched as soon as it is explained, by its id."""
    space = Workspace(out)

    def job_of(slide_id: str) -> LeasedJob[StitchJob, StitchResult]:
        path = space.map(slide_id)
        job = StitchJob(space.saliency(slide_id), path, config, overwrite)
        return LeasedJob(run_stitch_job, job, path, slide_id=slide_id)

    return job_of


def stitch(
    out: Path,
    *,
    config: StitchConfig | None = None,
    engine: EngineConfig | None = None,
    slide_ids: Sequence[str] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    made_ahead: Collection[str] = (),
) -> StageReport:
    """Stitch the saliency stores of ``out`` into ``out/maps``.

    Parameters
    ----------
    out : Path
        Output folder of ``explain``.
    config : StitchConfig, optional
        µm/px of the map, window, and how probability weights saliency.
    engine : EngineConfig, optional
        Where the work runs.
    slide_ids : sequence of str, optional
        Only these; all that are explained by default.
    overwrite : bool
        Make maps anew even where the right ones exist.
    reporter : Reporter, optional
        Listens to progress.
    made_ahead : collection of str
        Slides that :func:`stitch_job_of` has stitched for this run already.

    Returns
    -------
    StageReport
        What was done, skipped and failed, by slide id.

    Examples
    --------
    With ``out`` the folder of a run that has done the steps before:

    >>> import pathology_scaat as ps
    >>> report = ps.stitch(out)
    >>> report.done, report.failed
    (['s1'], {})
    """
    space = Workspace(out)
    todo = slides_to_do(space, "explain", slide_ids)
    settings = config or StitchConfig()
    ahead = frozenset(made_ahead)  # made anew just now: not once more for --overwrite
    jobs = [
        StitchJob(space.saliency(i), space.map(i), settings, overwrite and i not in ahead)
        for i in todo
    ]
    return run_stage(
        "stitch",
        todo,
        run_stitch_job,
        jobs,
        [job.map_path for job in jobs],
        engine,
        StatusTable(out),
        logged(reporter, out, "stitch"),
        made_ahead=made_ahead,
    )
