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
    cohort,
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
    from pathology_scaat.pipeline.info import info as step

    report = step(slide, reader=reader or "auto", mpp=mpp)
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
    slide_mpp: opt.SlideMpp = None,
    allow_upsampling: opt.AllowUpsampling = False,
    patch_size: opt.PatchSize = None,
    overlap: opt.Overlap = None,
    classes: opt.Classes = None,
    background_class: opt.BackgroundClass = None,
    reader: opt.Reader = None,
    labels: opt.Labels = None,
    keep_ink: opt.KeepInk = False,
    method: Annotated[str | None, typer.Option("--method", help="Training method.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Network by name.")] = None,
    weights: opt.Weights = None,
    trainable: opt.Trainable = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Most epochs.")] = None,
    eps: Annotated[float | None, typer.Option("--eps", help="SCAAT's budget in [0, 1].")] = None,
    positive_class: opt.PositiveClass = None,
    target: opt.Target = None,
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
    out_exists_ok: opt.OutExistsOk = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Do the whole job: tile, train (unless --model is given), explain, predict, stitch, export."""
    from pathology_scaat.pipeline.config import load_run_config

    tile_values = opt.tile_overrides(
        mpp, mag, patch_size, overlap, classes, reader, background_class, slide_mpp,
        allow_upsampling, keep_ink,
    )  # fmt: skip
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
            "tile": tile_values,
            "train": train_overrides(
                method, backbone, epochs, eps, positive_class, labels, weights, trainable
            ),
            "explain": {"target": target},
            "stitch": mopt.map_overrides(map_mpp, ngff, weighting),
            "export": mopt.export_overrides(formats, qupath_origin, vmax, identified),
            "engine": opt.engine_overrides(workers, scheduler, cluster),
        },
    )
    from pathology_scaat.pipeline.run import run as step  # torch is not loaded for a wrong setting

    if settings.model is not None:
        from pathology_scaat.pipeline.preflight import refuse_unused_options
        from pathology_scaat.training.bundle import read_bundle_config

        given = {
            "--mpp" if mag is None else "--mag": tile_values["mpp"],
            "--patch-size": patch_size,
            "--classes": tile_values["class_names"],
            "--method": method,
            "--backbone": backbone,
            "--weights": weights,
            "--trainable": trainable,
            "--epochs": epochs,
            "--eps": eps,
            "--positive-class": positive_class,
        }
        refuse_unused_options(given, read_bundle_config(settings.model))
    with progress_of(quiet) as reporter:
        report = step(settings, overwrite=overwrite, exists_ok=out_exists_ok, reporter=reporter)
    print_run(report)


@app.command()
def verify(
    out: opt.Out = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Decode no pixels and hash no files.")
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="With --manifest: also read every byte of every slide."),
    ] = False,
    manifest: opt.Manifest = None,
    pseudonymize: opt.Pseudonymize = None,
    quiet: opt.Quiet = False,
) -> None:
    """Re-read every artifact of a run and say in one line each what is wrong."""
    from pathology_scaat.pipeline.verify import verify as step

    folder = needed(out, "--out")
    if deep and (quick or manifest is None):
        raise UsageError("--deep", "reads the slides of --manifest", "give it, and no --quick")
    findings = step(
        folder,
        quick=quick,
        manifest=cohort(manifest, pseudonymize, folder) if manifest else None,
        deep=deep,
    )
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
def doctor(out: opt.Out = None) -> None:
    """Show what is installed, and try it: kernels, a small slide, a picture, the disk; offline."""
    from pathology_scaat.pipeline.doctor import doctor as step

    checks = step(out)
    table = folded()
    for head in range(3):
        table.add_column(overflow="fold", no_wrap=head < 2)
    for check in checks:
        absent = ("FAULT" if check.tried else "MISSING") if check.needed else "-"
        table.add_row("ok" if check.ok else absent, check.name, check.detail)
    stdout.print(table)
    bad = [check for check in checks if check.needed and not check.ok]
    missing = [check.name for check in bad if not check.tried]
    if missing:
        raise UsageError(
            ", ".join(missing), "is missing", "install again with pip install pathology-scaat"
        )
    if bad:
        raise UsageError(", ".join(check.name for check in bad), "does not work", bad[0].detail)
