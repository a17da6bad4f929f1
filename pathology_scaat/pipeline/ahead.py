"""What follows for a slide while the next slides are explained: its map, and its overlays.

What is made ahead is what the stages themselves would make: the same functions, under the same
leases. The stages come afterwards all the same. They find what is right, make what is missing,
and alone report failures and write the status table; so nothing hangs on what happened here,
and an interruption at any moment costs an artifact that was half made.

Where GPUs of this machine explain, processes beside them do it, since the CPUs would be idle.
Elsewhere the workers that explain do it between two slides: they lose no time that the stages
would not need as well, and the first overlays are there long before the last slide is explained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import ScaatError
from pathology_scaat.execution.devices import gpu_count, processes_on_gpu
from pathology_scaat.execution.engine import Beside, EngineConfig
from pathology_scaat.execution.local_pool import ProcessExecutor
from pathology_scaat.export import ExportConfig
from pathology_scaat.export.slide_findings import WITH_FINDINGS
from pathology_scaat.pipeline.ahead_job import AheadJob, ExportAhead, MadeAhead, work_ahead
from pathology_scaat.pipeline.export import export_job, model_facts
from pathology_scaat.pipeline.stitch import stitch_job_of
from pathology_scaat.stitching import StitchConfig
from pathology_scaat.system.processes import usable_cores

PROCESSES_PER_GPU = 10
"""Stitching and exporting a slide take a core about ten times as long as explaining takes a GPU."""


def helpers_for(engine: EngineConfig | None, device: str) -> int:
    """Processes to start beside the GPUs; none where the workers that explain do it themselves."""
    config = engine or EngineConfig()
    if config.scheduler or config.cluster or config.workers is not None:
        return 0
    gpus = gpu_count(device)
    if not gpus:
        return 0
    # Each process that explains queues a GPU's work on one core and decodes patches on another.
    explaining = gpus * processes_on_gpu(device)
    return min(PROCESSES_PER_GPU * gpus, max(usable_cores() - 2 * explaining, 0))


def ahead_job_of(
    out: Path,
    stitch: StitchConfig,
    overwrite: bool,
    *,
    cohort: Manifest | None = None,
    model: Path | None = None,
    export: ExportConfig | None = None,
) -> Callable[[str], AheadJob]:
    """What is done of a slide as soon as it is explained, by its id.

    Slides are exported where one model, given with ``model``, is applied to all of them. What
    has to wait for other slides is left to the export stage: a patient's slides are judged
    together, and the formats that tell a score as well as a map need the table of predictions.
    """
    space = Workspace(out)
    stitch_of = stitch_job_of(out, stitch, overwrite)
    rows = {row.slide_id: row for row in cohort.rows} if cohort else {}
    slides_of = Counter(row.patient_id for row in rows.values())
    facts = model_facts(space.model)

    def export_of(slide_id: str) -> ExportAhead | None:
        row = rows.get(slide_id)
        if model is None or export is None or WITH_FINDINGS & set(export.formats):
            return None
        if row is None or slides_of[row.patient_id] > 1:
            return None
        job = replace(export_job(space, slide_id, row, export, facts), overwrite=overwrite)
        return ExportAhead(job, out, row, model)

    return lambda slide_id: AheadJob(slide_id, stitch_of(slide_id), export_of(slide_id))


class Ahead:
    """Runs what follows as slides become ready for it; a context manager.

    Parameters
    ----------
    job_of : callable
        What follows for a slide, by its id.
    processes : int
        At most so many are started; with 0 the workers that explain do it, which are to be given
        ``beside``.
    """

    def __init__(self, job_of: Callable[[str], AheadJob], processes: int) -> None:
        self._job_of = job_of
        self._executor = ProcessExecutor(processes, 1) if processes else None
        self._running: list[Future[Any]] = []
        self.beside = Beside()

    def ready(self, slide_id: str) -> None:
        """Have what follows for a slide done; returns at once."""
        job = self._job_of(slide_id)
        if self._executor is None:
            self.beside.add(work_ahead, job)
        else:
            self._running.append(
                self._executor.submit(self._executor.run_in_worker, work_ahead, job)
            )

    def finish(self) -> tuple[frozenset[str], frozenset[str]]:
        """Wait for what is begun; the slides whose map, and whose overlays, were made here."""
        found = [_outcome(future) for future in self._running] + self.beside.outcomes
        made = [one[0] for one in found if one is not None and isinstance(one[0], MadeAhead)]
        return (
            frozenset(one.slide_id for one in made if one.stitched),
            frozenset(one.slide_id for one in made if one.exported),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            for future in self._running:
                future.cancel()
            self._executor.close(idle=kind is None)


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except ScaatError:  # no process can be started: the stages themselves will say so
        return None
