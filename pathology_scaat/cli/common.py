"""What the commands share: required options, settings from options, and the last lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.table import Table

from pathology_scaat.cli.method_options import method_options
from pathology_scaat.cli.options import engine_overrides
from pathology_scaat.cli.output import put_values, stderr, stdout
from pathology_scaat.errors import BatchError, NothingLearntError, UsageError
from pathology_scaat.system.rounding import significant

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pathology_scaat.cli.progress import TerminalReporter
    from pathology_scaat.cohort.manifest import Manifest
    from pathology_scaat.execution.engine import EngineConfig
    from pathology_scaat.pipeline.prediction_files import PredictReport
    from pathology_scaat.pipeline.reporting import StageReport
    from pathology_scaat.pipeline.run import RunReport

T = TypeVar("T")
Settings = TypeVar("Settings", bound="BaseModel")


def folded(*heads: str) -> Table:
    """A plain table whose long cells go on in the next line instead of being cut."""
    table = Table(box=None, show_header=bool(heads))
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def needed(value: T | None, option: str) -> T:
    """The value of an option that must be given.

    Raises
    ------
    UsageError
        If it is missing.
    """
    if value is None:
        raise UsageError(option, "is missing", f"give {option}")
    return value


def refuse_salt_alone(manifest: Path | None, salt: Path | None) -> None:
    """Refuse a salt that nothing would be done with.

    Raises
    ------
    UsageError
        If there is no manifest.
    """
    if manifest is None and salt is not None:
        raise UsageError("--pseudonymize", "does nothing without --manifest", "give both")


def cohort(manifest: Path, salt: Path | None, out: Path) -> Path | Manifest:
    """What a command takes for its manifest: the path, or the cohort under pseudonyms."""
    if salt is None:
        return manifest
    from pathology_scaat.pipeline.tile import load_cohort

    return load_cohort(manifest, salt, out)


def progress_of(quiet: bool) -> TerminalReporter:
    from pathology_scaat.cli.progress import TerminalReporter

    return TerminalReporter(stderr, quiet)


def checked(model: type[Settings], values: dict[str, Any], subject: str) -> Settings:
    """Build a settings object from the options that were given."""
    from pydantic import ValidationError

    from pathology_scaat.pipeline.config import merged, validation_error

    try:
        return model(**merged({}, values))
    except ValidationError as error:
        raise validation_error(subject, error, model) from None


def engine_of(workers: int | None, scheduler: str | None, cluster: Path | None) -> EngineConfig:
    """Where the work runs, as the command line says."""
    from pathology_scaat.execution.engine import EngineConfig

    return checked(EngineConfig, engine_overrides(workers, scheduler, cluster), "engine options")


def stage_document(report: StageReport) -> dict[str, Any]:
    """A stage for ``--json``: slide ids by what became of them."""
    return {
        "stage": report.stage,
        "done": report.done,
        "already_there": report.skipped,
        "failed": report.failed,
        "warnings": report.warnings,
    }


def finish(reports: list[StageReport], out: Path, then: Sequence[str] = ()) -> None:
    """Last lines of a batch: counts, failed slides, where the status stands, and what to do then.

    Raises
    ------
    BatchError
        If a slide failed.
    """
    put_values(out=out, status=out / "slides.csv", stages=[stage_document(one) for one in reports])
    failed = {slide: why for report in reports for slide, why in report.failed.items()}
    for report in reports:
        stdout.print(
            f"{report.stage}: {len(report.done)} done, {len(report.skipped)} already there, "
            f"{len(report.failed)} failed",
            markup=False,
            highlight=False,
        )
    for report in reports:
        for slide, why in report.warnings.items():
            text = f"warning: {slide}: {why}"
            stderr.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for slide, why in failed.items():
        stderr.print(f"failed: {slide}: {why}", markup=False, highlight=False, soft_wrap=True)
    for line in (f"status of every slide: {out / 'slides.csv'}", *then):
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise BatchError(
            f"{len(failed)} slide(s)", "failed", "the reasons are above and in slides.csv"
        )


def train_overrides(
    method: str | None,
    backbone: str | None,
    epochs: int | None,
    eps: float | None,
    positive_class: str | None,
    labels: str | None = None,
    weights: Path | None = None,
    trainable: str | None = None,
    data_years: bool = False,
    method_option: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The training settings that the command line names."""
    return {
        "labels": labels,
        "method": method,
        "backbone": backbone,
        "backbone_weights": weights,
        "trainable": trainable,
        "data_years": data_years or None,
        "epochs": epochs,
        "positive_class": positive_class,
        "method_options": method_options(eps, method_option),
    }


def print_metrics(metrics: dict[str, Any]) -> None:
    """The measures of a training; loss and calibration error are of logits as they come."""
    put_values(metrics=metrics)
    table = folded("measure", "value")
    for name, value in metrics.items():
        if name.endswith(("_loss", "_ece")):
            name = f"{name}, before calibration"
        if isinstance(value, int | float):
            table.add_row(name, significant(value))
        elif isinstance(value, str):
            table.add_row(name, value)
    stdout.print(table)


def print_performance(report: PredictReport, out: Path) -> None:
    """The measures of held-out patients and slides, with their intervals."""
    stdout.print(f"predictions: {out / 'predictions.csv'}", markup=False, highlight=False)
    put_values(
        predictions=out / "predictions.csv",
        n_predicted=len(report.predictions),
        performance=report.performance.as_dict() if report.performance else None,
        external_performance=report.external.as_dict() if report.external else None,
        decision=dict(report.decision),
    )
    for found in (report.performance, report.external):
        if found is None:
            continue
        stdout.print(
            f"{found.evaluated_on}: {found.slide.n} slide{'s'[: found.slide.n != 1]} of "
            f"{found.patient.n} patient{'s'[: found.patient.n != 1]}",
            markup=False,
            highlight=False,
        )
        table = folded("measure (95 % interval)", "patients", "slides")
        for name, estimate in found.patient.estimates.items():
            table.add_row(name, estimate.text(), found.slide.estimates[name].text())
        stdout.print(table)


def how_to_look(out: Path) -> list[str]:
    """What to open first, and what to do in QuPath, where there is something to look at."""
    overlays = out / "overlays"
    lines = []
    if next(overlays.glob("*.geojson.gz"), None) is not None:
        lines.append(
            "in QuPath: drag <slide>.geojson.gz onto the slide (once; the import script replaces), "
            "Measure > Show measurement maps, then press F to fill the tiles"
        )
    page = overlays / "index.html"
    if page.is_file():
        put_values(open_first=page)
        lines.append(f"open first: {page}")
    return lines


def print_run(report: RunReport) -> None:
    put_values(nothing_learnt=report.nothing_learnt, open_first=None)
    if report.training is not None:
        print_metrics(report.training.metrics)
    if report.predicted is not None:
        print_performance(report.predicted, report.out)
    try:
        finish(report.stages, report.out, how_to_look(report.out) if report.completed else ())
    except BatchError:
        refuse_nothing_learnt(report.nothing_learnt)
        raise
    refuse_nothing_learnt(report.nothing_learnt)


def refuse_nothing_learnt(nothing_learnt: str) -> None:
    """End with a code of its own where the model has learnt nothing; do nothing where it has.

    Raises
    ------
    NothingLearntError
        With the reason.
    """
    if nothing_learnt:
        raise NothingLearntError(
            "THE MODEL",
            f"HAS LEARNT NOTHING THAT CAN BE RELIED ON: {nothing_learnt}",
            "do not use its maps; check the labels and their counts, and train for longer",
        )
