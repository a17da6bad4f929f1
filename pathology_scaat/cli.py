"""The ``scaat`` command: parse, call, print. What it calls is imported when it is called."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from pathology_scaat import __version__
from pathology_scaat import cli_options as opt
from pathology_scaat.errors import BatchError, ScaatError, UsageError

if TYPE_CHECKING:
    from pathology_scaat.cli_progress import TerminalReporter
    from pathology_scaat.manifest import Manifest
    from pathology_scaat.verbs.reporting import StageReport
    from pathology_scaat.verbs.run import RunReport

INTERRUPTED = 130
TERMINATED = 143
INTERNAL_ERROR = 70

app = typer.Typer(
    name="scaat",
    help="From a folder of whole-slide images to slide-level saliency maps that open in QuPath.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
stdout = Console()
stderr = Console(stderr=True)
T = TypeVar("T")


def _needed(value: T | None, option: str) -> T:
    if value is None:
        raise UsageError(option, "is missing", f"give {option}")
    return value


def _cohort(manifest: Path, salt: Path | None, out: Path) -> Path | Manifest:
    """What a verb takes for its manifest: the path, or the cohort under pseudonyms."""
    if salt is None:
        return manifest
    from pathology_scaat.verbs.tile import load_cohort

    return load_cohort(manifest, salt, out)


def _reporter(quiet: bool) -> TerminalReporter:
    from pathology_scaat.cli_progress import TerminalReporter

    return TerminalReporter(stderr, quiet)


def _checked(model: type[T], values: dict[str, Any], subject: str) -> T:
    """Build a settings object from the options that were given."""
    from pydantic import ValidationError

    from pathology_scaat.config import merged, validation_error

    try:
        return model(**merged({}, values))
    except ValidationError as error:
        raise validation_error(subject, error) from None


def _finish(reports: list[StageReport], out: Path) -> None:
    """Last lines of a batch: counts, failed slides, where the status stands."""
    failed = {slide: why for report in reports for slide, why in report.failed.items()}
    for report in reports:
        stdout.print(
            f"{report.stage}: {len(report.done)} done, {len(report.skipped)} already there, "
            f"{len(report.failed)} failed",
            markup=False,
            highlight=False,
        )
    for slide, why in failed.items():
        stderr.print(f"failed: {slide}: {why}", markup=False, highlight=False, soft_wrap=True)
    stdout.print(f"status of every slide: {out / 'slides.csv'}", markup=False, highlight=False)
    if failed:
        raise BatchError(
            f"{len(failed)} slide(s)", "failed", "the reasons are above and in slides.csv"
        )


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a folder of whole-slide images to slide-level saliency maps that open in QuPath."""
    if version:
        stdout.print(f"scaat {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def info(
    slide: Annotated[Path, typer.Argument(help="Slide file or folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    reader: opt.Reader = None,
    mpp: opt.Mpp = None,
) -> None:
    """Show a slide's format, levels, µm/px and scanner bounds; nothing that identifies it."""
    from pathology_scaat.verbs.info import info as verb

    report = verb(slide, reader=reader or "auto", mpp=mpp)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None)
    for name, value in report.rows():
        table.add_row(name, value)
    stdout.print(table)


@app.command()
def tile(
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    mpp: opt.Mpp = None,
    mag: opt.Mag = None,
    patch_size: opt.PatchSize = None,
    overlap: opt.Overlap = None,
    classes: opt.Classes = None,
    reader: opt.Reader = None,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Cut slides into zarr patch stores."""
    from pathology_scaat.engine import EngineConfig
    from pathology_scaat.patches import TileConfig
    from pathology_scaat.verbs.tile import tile as verb

    values = opt.tile_overrides(mpp, mag, patch_size, overlap, classes, reader)
    engine = opt.engine_overrides(workers, scheduler, cluster)
    folder = _needed(out, "--out")
    with _reporter(quiet) as reporter:
        report = verb(
            _cohort(_needed(manifest, "--manifest"), pseudonymize, folder),
            folder,
            config=_checked(TileConfig, values, "tile options"),
            engine=_checked(EngineConfig, engine, "engine options"),
            overwrite=overwrite,
            reporter=reporter,
        )
    _finish([report], folder)


@app.command()
def train(
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    method: Annotated[str | None, typer.Option("--method", help="Training method.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Network by name.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Most epochs.")] = None,
    eps: Annotated[float | None, typer.Option("--eps", help="SCAAT's budget in [0, 1].")] = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a classifier on the labelled patches, with SCAAT unless told otherwise."""
    from pathology_scaat.training import TrainConfig
    from pathology_scaat.verbs.train import train as verb

    values = train_overrides(method, backbone, epochs, eps)
    folder = _needed(out, "--out")
    with _reporter(quiet) as reporter:
        result = verb(
            _cohort(_needed(manifest, "--manifest"), pseudonymize, folder),
            folder,
            config=_checked(TrainConfig, values, "train options"),
            device=device,
            seed=seed or 0,
            overwrite=overwrite,
            reporter=reporter,
        )
    _print_metrics(result.metrics)


def train_overrides(
    method: str | None, backbone: str | None, epochs: int | None, eps: float | None
) -> dict[str, Any]:
    """The training settings that the command line names."""
    return {
        "method": method,
        "backbone": backbone,
        "epochs": epochs,
        "method_options": {"eps": eps} if eps is not None else None,
    }


def _print_metrics(metrics: dict[str, Any]) -> None:
    table = Table("measure", "value", box=None)
    for name, value in metrics.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.4g}")
        elif isinstance(value, str):
            table.add_row(name, value)
    stdout.print(table)


@app.command()
def explain(
    out: opt.Out = None,
    model: opt.Model = None,
    method: Annotated[str | None, typer.Option("--method", help="Attribution method.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Class to explain; the positive one by default.")
    ] = None,
    device: opt.Device = "auto",
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compute class probabilities and pixel saliency of every patch."""
    from pathology_scaat.saliency import ExplainConfig
    from pathology_scaat.verbs.explain import explain as verb

    folder = _needed(out, "--out")
    values = {"method": method, "target": target}
    with _reporter(quiet) as reporter:
        report = verb(
            folder,
            model=model,
            config=_checked(ExplainConfig, values, "explain options"),
            device=device,
            overwrite=overwrite,
            reporter=reporter,
        )
    _finish([report], folder)


@app.command()
def stitch(
    out: opt.Out = None,
    weighting: Annotated[
        str | None,
        typer.Option("--weighting", help="How probability weights saliency: see the docs."),
    ] = None,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Blend patch saliency into slide maps."""
    from pathology_scaat.engine import EngineConfig
    from pathology_scaat.stitching import StitchConfig
    from pathology_scaat.verbs.stitch import stitch as verb

    folder = _needed(out, "--out")
    engine = opt.engine_overrides(workers, scheduler, cluster)
    with _reporter(quiet) as reporter:
        report = verb(
            folder,
            config=_checked(StitchConfig, {"weighting": weighting}, "stitch options"),
            engine=_checked(EngineConfig, engine, "engine options"),
            overwrite=overwrite,
            reporter=reporter,
        )
    _finish([report], folder)


@app.command()
def export(
    out: opt.Out = None,
    manifest: opt.Manifest = None,
    formats: Annotated[
        str | None, typer.Option("--formats", help="Comma-separated, e.g. geojson,ome-tiff,png.")
    ] = None,
    qupath_origin: Annotated[
        str | None,
        typer.Option("--qupath-origin", help="bounds: as QuPath crops a slide; full: canvas."),
    ] = None,
    vmax: Annotated[
        float | None, typer.Option("--vmax", help="Top of the colour scale, for a whole cohort.")
    ] = None,
    identified: Annotated[
        bool, typer.Option("--identified", help="Allow DICOM objects that name the patient.")
    ] = False,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write slide maps as files that QuPath and other viewers open."""
    from pathology_scaat.engine import EngineConfig
    from pathology_scaat.export import ExportConfig
    from pathology_scaat.verbs.export import export as verb

    folder = _needed(out, "--out")
    engine = opt.engine_overrides(workers, scheduler, cluster)
    values: dict[str, Any] = {
        "formats": [name.strip() for name in formats.split(",")] if formats else None,
        "qupath_origin": qupath_origin,
        "vmax": vmax,
        "identified": identified or None,
    }
    with _reporter(quiet) as reporter:
        report = verb(
            folder,
            manifest=_cohort(manifest, pseudonymize, folder) if manifest else None,
            config=_checked(ExportConfig, values, "export options"),
            engine=_checked(EngineConfig, engine, "engine options"),
            overwrite=overwrite,
            reporter=reporter,
        )
    _finish([report], folder)


@app.command("import-annotations")
def import_annotations(
    source: Annotated[Path, typer.Argument(help="GeoJSON from QuPath, or a folder of it.")],
    out: opt.Out = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for the labels; OUT/annotations if none.")
    ] = None,
    manifest: opt.Manifest = None,
) -> None:
    """Bring annotations corrected in QuPath back as labels for the next training."""
    from pathology_scaat.export.import_annotations import import_annotations as verb

    folder = _needed(out, "--out")
    target = to or folder / "annotations"
    for one in verb(source, folder / "overlays", target, manifest=manifest):
        kept = ", ".join(f"{count} {name}" for name, count in one.classes.items()) or "nothing"
        stdout.print(
            f"{one.slide_id}: {'; '.join([kept, *one.notes])}", markup=False, highlight=False
        )
    stdout.print(f"labels: {target}", markup=False, highlight=False)


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(help="Pipeline file (YAML); options override it.")
    ] = None,
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    model: opt.Model = None,
    mpp: opt.Mpp = None,
    mag: opt.Mag = None,
    patch_size: opt.PatchSize = None,
    overlap: opt.Overlap = None,
    classes: opt.Classes = None,
    reader: opt.Reader = None,
    method: Annotated[str | None, typer.Option("--method", help="Training method.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Network by name.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Most epochs.")] = None,
    eps: Annotated[float | None, typer.Option("--eps", help="SCAAT's budget in [0, 1].")] = None,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda:N.")] = None,
    seed: opt.Seed = None,
    audit: Annotated[
        str | None, typer.Option("--audit", help="standard, or full: also paths, user, time.")
    ] = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Do the whole job: tile, train (unless --model is given), explain, stitch, export."""
    from pathology_scaat.config import load_run_config
    from pathology_scaat.verbs.run import run as verb

    settings = load_run_config(
        config,
        {
            "manifest": manifest,
            "out": out,
            "model": model,
            "seed": seed,
            "device": device,
            "audit": audit,
            "pseudonymize": pseudonymize,
            "tile": opt.tile_overrides(mpp, mag, patch_size, overlap, classes, reader),
            "train": train_overrides(method, backbone, epochs, eps),
            "engine": opt.engine_overrides(workers, scheduler, cluster),
        },
    )
    with _reporter(quiet) as reporter:
        report = verb(settings, overwrite=overwrite, reporter=reporter)
    _print_run(report)


def _print_run(report: RunReport) -> None:
    if report.training is not None:
        _print_metrics(report.training.metrics)
    if report.completed:
        stdout.print(f"overlays: {report.out / 'overlays'}", markup=False, highlight=False)
    _finish(report.stages, report.out)


@app.command()
def verify(
    out: opt.Out = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Decode no pixels and hash no files.")
    ] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Re-read every artifact of a run and say in one line each what is wrong."""
    from pathology_scaat.verbs.verify import verify as verb

    findings = verb(_needed(out, "--out"), quick=quick)
    faults = [finding for finding in findings if not finding.ok]
    for finding in faults if quiet else findings:
        mark = "ok   " if finding.ok else "FAULT"
        text = f"{mark} {finding.artifact}: {finding.message}"
        stdout.print(text, markup=False, highlight=False, soft_wrap=True)
    if faults:
        raise BatchError(f"{len(faults)} fault(s)", "were found", "they are listed above")
    stdout.print(f"{len(findings)} artifacts are sound", markup=False, highlight=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("scaat-demo"),
    workers: opt.Workers = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Make a small cohort with a known answer and run the whole job on it."""
    from pathology_scaat.verbs.demo import demo as verb

    with _reporter(quiet) as reporter:
        report = verb(
            out,
            workers=workers,
            device=device,
            seed=seed or 0,
            overwrite=overwrite,
            reporter=reporter,
        )
    for title, table in report.tables():
        stdout.print(f"\n{title}", style="bold")
        shown = Table(*table[0], box=None)
        for row in table[1:]:
            shown.add_row(*row)
        stdout.print(shown)
    _finish(report.run.stages, report.run.out)


@app.command()
def doctor() -> None:
    """Show what is installed, the GPU, the readers and the free disk; offline."""
    from pathology_scaat.verbs.doctor import doctor as verb

    checks = verb()
    table = Table(box=None, show_header=False)
    for check in checks:
        mark = "ok" if check.ok else ("MISSING" if check.needed else "-")
        table.add_row(mark, check.name, check.detail)
    stdout.print(table)
    missing = [check.name for check in checks if check.needed and not check.ok]
    if missing:
        raise UsageError(
            ", ".join(missing), "is missing", "install again with pip install pathology-scaat"
        )


class Terminated(BaseException):
    """A job queue asks the command to end: as Ctrl-C, with its own exit code."""


def _on_terminate(number: int, frame: object) -> None:
    raise Terminated


def run_command(command: Callable[[], Any]) -> int:
    """Call a command; turn what it raises into one sentence and an exit code."""
    try:
        # The parser turns Exit and Ctrl-C into a returned exit code.
        returned = command()
    except ScaatError as error:
        stderr.print(f"scaat: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        returned = INTERRUPTED
    except Terminated:
        returned = TERMINATED
    except Exception as error:  # the last line of defence: never a traceback at the user
        show = getattr(error, "show", None)  # a wrong option, as the parser reports it
        if callable(show) and hasattr(error, "exit_code"):
            show()
            return int(error.exit_code)
        from pathology_scaat.privacy import redact

        logging.getLogger(__name__).debug("internal error", exc_info=True)
        words = redact(f"{type(error).__name__}: {error}")
        stderr.print(
            f"scaat: internal error ({words}); please report it, with the command that you gave.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return INTERNAL_ERROR
    if returned in (INTERRUPTED, TERMINATED):
        stderr.print("scaat: interrupted; run the same command again to go on.", markup=False)
    return returned if isinstance(returned, int) else 0


def main() -> None:
    """Entry point of the ``scaat`` command."""
    signal.signal(signal.SIGTERM, _on_terminate)
    sys.exit(run_command(lambda: app(standalone_mode=False)))
