"""What every stage over slides has in common: jobs out, results into the status table."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from pathology_scaat.artifacts.disk_probe import probe_disk
from pathology_scaat.artifacts.failure_log import log_failure
from pathology_scaat.artifacts.leases import LeasedJob, run_leased
from pathology_scaat.artifacts.leftovers import sweep_leases, sweep_partials
from pathology_scaat.artifacts.output_folder import Workspace, claim_output
from pathology_scaat.artifacts.redaction import reason_for
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES, Fact, Stage, StatusChange
from pathology_scaat.artifacts.status_writer import StatusWriter
from pathology_scaat.cohort.mistaken import require_output_folder
from pathology_scaat.errors import LeaseError, ScaatError, UsageError
from pathology_scaat.execution.engine import Beside, EngineConfig, LostError, map_jobs
from pathology_scaat.pipeline.reporting import Reporter, StageReport
from pathology_scaat.pipeline.run_log import LoggingReporter
from pathology_scaat.system.names import did_you_mean, shown_names
from pathology_scaat.system.processes import usable_cores

if TYPE_CHECKING:
    from pathology_scaat.execution.local_pool import StartedWorkers

_OF_A_MODEL = ("unlike_training", "predicted", "probabilities", "uncertainty", "refer")
FACTS_OF: Mapping[Stage, tuple[str, ...]] = {
    "tile": (
        "n_patches", "n_unreadable", "n_labelled", "mpp", "mpp_source", "reader", "notes",
        *_OF_A_MODEL,
    ),
    "explain": _OF_A_MODEL,
}  # fmt: skip
"""What a stage, or a later one, tells of a slide: of one that fails in it that is not known any
more, for what is there is of an earlier run."""

CHECKS_OF_A_PROCESS = 100
"""Artifacts that are there already, for which a process of its own is worth its start."""


class SlideResult(Protocol):
    """What a per-slide function returns, as far as a stage needs to know."""

    @property
    def skipped(self) -> bool: ...


def no_facts(result: Any) -> Mapping[str, Any]:
    """No extra columns for the status table."""
    return {}


def usable_slides(space: Workspace, stage: Stage) -> list[str]:
    """Slides that have an artifact of a stage, and whose last attempt at it did not fail."""
    return StatusTable(space.out).without_failed(stage, space.slide_ids_with(stage))


def without_result(out: Path, stage: str) -> UsageError:
    """That a folder holds nothing that a stage made, or what was given in place of a folder."""
    require_output_folder(out)
    return UsageError("--out", f"has no result of 'scaat {stage}'", "run that stage first")


def slides_to_do(
    space: Workspace, stage_before: Stage, slide_ids: Sequence[str] | None
) -> tuple[str, ...]:
    """The slides that the stage before left whole, of those asked for.

    Without ``slide_ids``, a slide that failed in the stage before is left out, whatever an
    earlier run left of it.

    Raises
    ------
    UsageError
        If the stage before left none, or not all of those that were asked for.
    """
    have = space.slide_ids_with(stage_before)
    if slide_ids is None and not have:
        raise without_result(space.out, stage_before)
    if slide_ids is None:
        return tuple(StatusTable(space.out).without_failed(stage_before, have))
    return known_slides(slide_ids, have, f"with a result of 'scaat {stage_before}'")


def known_slides(asked: Sequence[str], known: Sequence[str], where: str) -> tuple[str, ...]:
    """The slides that were asked for, each once.

    Parameters
    ----------
    asked, known : sequence of str
        Slide ids.
    where : str
        What makes a slide known, for the message.

    Raises
    ------
    UsageError
        Naming all that are not known, with what was probably meant.
    """
    there = set(known)
    missing = [slide_id for slide_id in dict.fromkeys(asked) if slide_id not in there]
    if missing:
        meant = [text for one in missing[:3] if (text := did_you_mean(one, known))]
        raise UsageError(
            "--slides",
            f"{shown_names(missing)}: no slide {where} is called so",
            " ".join(meant) or f"there are {shown_names(known) or 'none'}",
        )
    return tuple(dict.fromkeys(asked))


class StageRecorder:
    """Keeps the stage report, the status table and the listener in step; a context manager."""

    def __init__(
        self,
        stage: Stage,
        slide_ids: Sequence[str],
        status: StatusTable,
        reporter: Reporter,
        made_ahead: Collection[str] = (),
    ) -> None:
        self.report = StageReport(stage)
        self._stage: Stage = stage
        self._status = status
        self._reporter = reporter
        self._made_ahead = frozenset(made_ahead)
        self._n_made = 0
        self._started = time.monotonic()
        self._units = 0
        self._units_made = 0
        self._n_ended = 0
        self._shares: dict[int, float] = {}
        changes: list[StatusChange] = []
        claim_output(status.path.parent)
        probe_disk(status.path.parent)
        sweep_partials(status.path.parent)
        if problem := status.problem():
            reporter.note(f"slides.csv {problem}: its rows are made anew from the artifacts")
        for slide_id in slide_ids:
            changes.append((slide_id, stage, "pending", "", {}))
        status.update_many(changes)
        self._writer = StatusWriter(status)
        reporter.begin(stage, len(slide_ids))

    def failed(self, slide_id: str, error: ScaatError) -> None:
        self.report.failed[slide_id] = str(error)
        log_failure(self._status.path.parent, self.report.stage, slide_id, error)
        if isinstance(self._reporter, LoggingReporter):
            self._reporter.failed(self._stage, slide_id, reason_for(error))
        nothing: dict[str, Fact] = dict.fromkeys(FACTS_OF.get(self._stage, ()), "")
        own: StatusChange = (slide_id, self._stage, "failed", reason_for(error), nothing)
        self._writer.add([*self._outdated(slide_id), own])
        self._advance()

    def succeeded(self, slide_id: str, result: SlideResult, facts: Mapping[str, Any]) -> None:
        was_there = result.skipped and slide_id not in self._made_ahead
        (self.report.skipped if was_there else self.report.done).append(slide_id)
        for note in getattr(result, "notes", ()):
            self._reporter.note(f"{slide_id}: {note}")
        if warnings := tuple(getattr(result, "warnings", ())):
            self.report.warnings[slide_id] = "; ".join(warnings)
        own: StatusChange = (slide_id, self._stage, "done", "", facts)
        same = was_there or bool(getattr(result, "same_patches", False))
        self._writer.add([*([] if same else self._outdated(slide_id)), own])
        if not was_there:
            n_cut = getattr(result, "n_cut", None)
            units = int(getattr(result, "n_patches", 0) if n_cut is None else n_cut)
            self._n_made += 1
            self._units_made += units
            if not result.skipped:  # the rate counts only patches that were really worked on now
                self._units += units
        self._advance()

    def _outdated(self, slide_id: str) -> list[StatusChange]:
        """What later stages made of another artifact than the present one is done no more."""
        later = STAGES[STAGES.index(self._stage) + 1 :]
        return [(slide_id, stage, "pending", "", {}) for stage in later]

    def in_progress(self, index: int, share: float) -> None:
        """Job ``index`` of the running batch is done to a share of 0 to 1."""
        self._shares[index] = share
        self._reporter.update(self.report.stage, self._n_ended + sum(self._shares.values()))

    def ended(self, index: int) -> None:
        """Job ``index`` of the running batch is no longer in progress."""
        self._shares.pop(index, None)

    def _advance(self) -> None:
        self._n_ended += 1
        seconds = max(time.monotonic() - self._started, 1e-3)
        parts = [f"{self._units / seconds:,.0f} patches/s"] if self._units else []
        if self.report.failed:
            parts.append(f"{len(self.report.failed)} failed")
        self._reporter.advance(self.report.stage, ", ".join(parts))

    def close(self) -> StageReport:
        self._writer.close()
        if isinstance(self._reporter, LoggingReporter):
            self._reporter.made(self._stage, self._n_made, self._units_made)
        self._reporter.end(self.report.stage)
        return self.report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Whatever ends the stage, the table says what was done until then."""
        if kind is None:
            self._writer.close()
            return
        with suppress(ScaatError):  # what ended the stage is the news
            self._writer.close()
        # Workers that did not end in time were killed, in the middle of what they wrote.
        out = self._status.path.parent
        with suppress(OSError):
            sweep_partials(out)
            sweep_leases(out)


def _engine_for_checks(
    engine: EngineConfig | None,
    todo: Sequence[int],
    slide_ids: Sequence[str],
    made_ahead: Collection[str],
) -> EngineConfig:
    """Fewer processes where every artifact is there, made ahead, and is only looked at.

    A process takes longer to start than to look at many artifacts.
    """
    config = engine or EngineConfig()
    is_here = config.workers is None and not config.scheduler and not config.cluster
    if not is_here or not todo or not {slide_ids[i] for i in todo} <= set(made_ahead):
        return config
    processes = min(usable_cores(), -(-len(todo) // CHECKS_OF_A_PROCESS))
    return config.model_copy(update={"workers": processes})


def run_stage(
    stage: Stage,
    slide_ids: Sequence[str],
    function: Callable[[Any], SlideResult],
    jobs: Sequence[Any],
    artifacts: Sequence[Path],
    engine: EngineConfig | None,
    status: StatusTable,
    reporter: Reporter,
    facts: Callable[[Any], Mapping[str, Any]] = no_facts,
    preflight: Callable[[Any], None] | None = None,
    resources: dict[str, float] | None = None,
    on_done: Callable[[str], None] | None = None,
    made_ahead: Collection[str] = (),
    beside: Beside | None = None,
    started: StartedWorkers | None = None,
) -> StageReport:
    """Run one job per slide wherever the engine says; a failed slide stops no other.

    Parameters
    ----------
    stage : str
        Column of the status table.
    slide_ids : sequence of str
        One id per job.
    function : callable
        Importable function of one job; returns something with ``skipped``.
    jobs : sequence
        Picklable values.
    artifacts : sequence of Path
        What each job makes: it is leased, so that of two runs on one folder one makes it.
        Slides that the other run is making come last, and wait for it.
    engine : EngineConfig or None
        Where the work runs; the default engine if None.
    status : StatusTable
        Where status is written.
    reporter : Reporter
        Listens to progress.
    facts : callable
        Extra columns of the status table from a result.
    preflight : callable, optional
        Raises what would make a job fail at once; called here for each job before any is given
        to a worker, where the workers are on this machine.
    resources : dict, optional
        What a worker of a Dask cluster must offer (:func:`map_jobs`).
    on_done : callable, optional
        Told the id of each slide whose artifact is there now; must return at once.
    made_ahead : collection of str
        Slides whose artifact was made while the stage before still ran: done, and not found.
    beside : Beside, optional
        Jobs that ``on_done`` adds for the same workers.
    started : StartedWorkers, optional
        Processes that wait for the jobs.

    Raises
    ------
    LostError
        If the cluster went away; the slides that are not done are ``failed``.
    """
    with StageRecorder(stage, slide_ids, status, reporter, made_ahead) as recorder:
        todo = list(range(len(jobs)))
        if preflight is not None and not (engine and (engine.scheduler or engine.cluster)):
            possible = []
            for index in todo:
                try:
                    preflight(jobs[index])
                except ScaatError as error:
                    recorder.ended(index)
                    recorder.failed(slide_ids[index], error)
                else:
                    possible.append(index)
            todo = possible
        engine = _engine_for_checks(engine, todo, slide_ids, made_ahead)
        lost: list[LostError] = []
        for wait in (False, True):
            leased = [LeasedJob(function, jobs[i], artifacts[i], wait, slide_ids[i]) for i in todo]
            busy = []
            # Closed before anything else happens: workers end with the loop, however it ends.
            with closing(
                map_jobs(
                    run_leased,
                    leased,
                    engine,
                    announce=reporter.note,
                    resources=resources,
                    on_progress=recorder.in_progress,
                    beside=beside,
                    started=started,
                )
            ) as outcomes:
                for outcome in outcomes:
                    index = todo[outcome.index]
                    recorder.ended(outcome.index)
                    if outcome.result is not None:
                        recorder.succeeded(slide_ids[index], outcome.result, facts(outcome.result))
                        if on_done is not None:
                            on_done(slide_ids[index])
                    elif isinstance(outcome.error, LeaseError) and not wait:
                        busy.append(index)
                    elif outcome.error is not None:
                        recorder.failed(slide_ids[index], outcome.error)
                        if isinstance(outcome.error, LostError):
                            lost.append(outcome.error)
            todo = sorted(busy)
            if lost or not todo:
                break
        report = recorder.close()
    if lost:
        # Later stages would do without these slides; a model would even be trained without.
        raise LostError("the cluster", f"{lost[0].problem}, {len(lost)} not done", lost[0].remedy)
    return report
