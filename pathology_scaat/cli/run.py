"""The whole job and what surrounds it: run, demo, verify, info, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from pathology_scaat.cli import options as mopt
from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import (
    finish,
    folded,
    needed,
    print_run,
    progress_of,
    stdout,
    train_overrides,
)
from pathology_scaat.errors import BatchError, UsageError


@app.command()
def info(
    slide: Annotated[str, typer.Argument(help="Slide file, folder or URL.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    reader: opt.Reader = None,
    mpp: opt.Mpp = None,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Show a slide's format, levels, µm/px and scanner bounds; nothing that identifies it."""
    from pathology_scaat.pipeline.info import info as verb

    report = verb(slide, reader=reader or "auto", mpp=mpp)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None)
    for name, value in report.rows():
        table.add_row(name, value)
    stdout.print(table)


@app.command()
def run(
    config: Annotated[
        Path | None,
        typer.Argument(help="Pipeline file (YAML) or a run.json; options override it."),
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
    labels: opt.Labels = None,
    method: Annotated[str | None, typer.Option("--method", help="Training method.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Network by name.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Most epochs.")] = None,
    eps: Annotated[float | None, typer.Option("--eps", help="SCAAT's budget in [0, 1].")] = None,
    map_mpp: mopt.MapMpp = None,
    ngff: mopt.Ngff = None,
    weighting: mopt.Weighting = None,
    formats: mopt.Formats = None,
    qupath_origin: mopt.QuPathOrigin = None,
    vmax: mopt.Vmax = None,
    identified: mopt.Identified = False,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda:N.")] = None,
    seed: opt.Seed = None,
    folds: opt.Folds = None,
    preserve_site: opt.PreserveSite = None,
    test_manifest: opt.TestManifest = None,
    prevalence: opt.Prevalence = None,
    audit: Annotated[
        str | None, typer.Option("--audit", help="standard, or full: also paths, user, time.")
    ] = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Do the whole job: tile, train (unless --model is given), explain, predict, stitch, export."""
    from pathology_scaat.pipeline.config import load_run_config

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
            "folds": folds,
            "preserve_site": preserve_site,
            "test_manifest": test_manifest,
            "prevalence": prevalence,
            "tile": opt.tile_overrides(mpp, mag, patch_size, overlap, classes, reader),
            "train": train_overrides(method, backbone, epochs, eps, labels),
            "stitch": mopt.map_overrides(map_mpp, ngff, weighting),
            "export": mopt.export_overrides(formats, qupath_origin, vmax, identified),
            "engine": opt.engine_overrides(workers, scheduler, cluster),
        },
    )
    from pathology_scaat.pipeline.run import run as verb  # torch is not loaded for a wrong setting

    with progress_of(quiet) as reporter:
        report = verb(settings, overwrite=overwrite, reporter=reporter)
    print_run(report)


@app.command()
def verify(
    out: opt.Out = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Decode no pixels and hash no files.")
    ] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Re-read every artifact of a run and say in one line each what is wrong."""
    from pathology_scaat.pipeline.verify import verify as verb

    findings = verb(needed(out, "--out"), quick=quick)
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
    labels: Annotated[
        Literal["patch", "slide"],
        typer.Option("--labels", help="patch: annotated slides; slide: a diagnosis a slide only."),
    ] = "patch",
    workers: opt.Workers = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Make a small cohort with a known answer and run the whole job on it."""
    from pathology_scaat.pipeline.demo import demo as annotated
    from pathology_scaat.pipeline.demo_labels import labelled_demo

    with progress_of(quiet) as reporter:
        report = (labelled_demo if labels == "slide" else annotated)(
            out,
            workers=workers,
            device=device,
            seed=seed or 0,
            overwrite=overwrite,
            reporter=reporter,
        )
    for title, table in report.tables():
        stdout.print(f"\n{title}", style="bold")
        shown = folded(*table[0])
        for row in table[1:]:
            shown.add_row(*row)
        stdout.print(shown)
    finish(report.run.stages, report.run.out)


@app.command()
def doctor() -> None:
    """Show what is installed, the GPU, the readers and the free disk; offline."""
    from pathology_scaat.pipeline.doctor import doctor as verb

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
