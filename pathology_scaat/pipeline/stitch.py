"""``scaat stitch``: patch saliency into slide maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline.reporting import Reporter, StageReport
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.stage import run_stage, slides_to_do
from pathology_scaat.stitching import StitchConfig, StitchResult, stitch_slide


@dataclass(frozen=True)
class StitchJob:
    """One slide's stitching as a value that travels to a worker."""

    saliency_path: Path
    map_path: Path
    config: StitchConfig
    overwrite: bool


def run_stitch_job(job: StitchJob) -> StitchResult:
    return stitch_slide(job.saliency_path, job.map_path, job.config, overwrite=job.overwrite)


def stitch(
    out: Path,
    *,
    config: StitchConfig | None = None,
    engine: EngineConfig | None = None,
    slide_ids: Sequence[str] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
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
    jobs = [StitchJob(space.saliency(i), space.map(i), settings, overwrite) for i in todo]
    return run_stage(
        "stitch",
        todo,
        run_stitch_job,
        jobs,
        [job.map_path for job in jobs],
        engine,
        StatusTable(out),
        logged(reporter, out, "stitch"),
    )
