"""What the commands share: required options, settings from options, and the last lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

from pathology_scaat.cli.options import engine_overrides
from pathology_scaat.errors import BatchError, NothingLearntError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pathology_scaat.cli.progress import TerminalReporter
    from pathology_scaat.cohort.manifest import Manifest
    from pathology_scaat.execution.engine import EngineConfig
    from pathology_scaat.pipeline.predict import PredictReport
    from pathology_scaat.pipeline.reporting import StageReport
    from pathology_scaat.pipeline.run import RunReport

stdout = Console()
stderr = Console(stderr=True)
T = TypeVar("T")
Settings = TypeVar("Settings", bound="BaseModel")


def folded(*heads: str) -> Table:
    """A plain table whose long cells go on in the next line instead of being cut."""
    table = Table(box=None, show_header=bool(heads))
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def needed(value: T | None, option: str) -> T:
    if value is None:
        raise UsageError(option, "is missing", f"give {option}")
    return value


def no_salt_alone(manifest: Path | None, salt: Path | None) -> None:
    """Refuse a salt that nothing would be done with."""
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


def finish(reports: list[StageReport], out: Path) -> None:
    """Last lines of a batch: counts, failed slides, where the status stands."""
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
    stdout.print(f"status of every slide: {out / 'slides.csv'}", markup=False, highlight=False)
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
) -> dict[str, Any]:
    """The training settings that the command line names."""
    return {
        "labels": labels,
        "method": method,
        "backbone": backbone,
        "backbone_weights": weights,
        "trainable": trainable,
        "epochs": epochs,
        "positive_class": positive_class,
        "method_options": {"eps": eps} if eps is not None else None,
    }


def print_metrics(metrics: dict[str, Any]) -> None:
    table = folded("measure", "value")
    for name, value in metrics.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.4g}")
        elif isinstance(value, str):
            table.add_row(name, value)
    stdout.print(table)


def print_performance(report: PredictReport, out: Path) -> None:
    """The measures of held-out patients and slides, with their intervals."""
    stdout.print(f"predictions: {out / 'predictions.csv'}", markup=False, highlight=False)
    found = report.performance
    if found is None:
        return
    stdout.print(
        f"{found.evaluated_on}: {found.slide.n} slides of {found.patient.n} patients",
        markup=False,
        highlight=False,
    )
    table = folded("measure (95 % interval)", "patients", "slides")
    for name, estimate in found.patient.estimates.items():
        table.add_row(name, estimate.text(), found.slide.estimates[name].text())
    stdout.print(table)


def say_how_to_look(overlays: Path) -> None:
    """What to do in QuPath, where there is something to look at."""
    if next(overlays.glob("*.geojson.gz"), None) is not None:
        stdout.print(
            "in QuPath: drag <slide>.geojson.gz onto the slide (once; the import script replaces), "
            "Measure > Show measurement maps, then press F to fill the tiles",
            markup=False,
            highlight=False,
        )


def print_run(report: RunReport) -> None:
    if report.training is not None:
        print_metrics(report.training.metrics)
    if report.predicted is not None:
        print_performance(report.predicted, report.out)
    if report.completed:
        page = report.out / "overlays" / "index.html"
        stdout.print(f"open first: {page}", markup=False, highlight=False)
        say_how_to_look(report.out / "overlays")
    try:
        finish(report.stages, report.out)
    except BatchError:
        refuse_silence(report.nothing_learnt)
        raise
    refuse_silence(report.nothing_learnt)


def refuse_silence(nothing_learnt: str) -> None:
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
