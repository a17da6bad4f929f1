"""The whole job: run, and demo, which runs it on slides of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pathology_scaat.cli import map_options as mopt
from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import (
    finish,
    folded,
    how_to_look,
    print_run,
    progress_of,
    train_overrides,
)
from pathology_scaat.cli.output import Json, put_values, stdout
from pathology_scaat.errors import UsageError


@app.command(short_help="The whole job, from slides to maps.")
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
    pixels: opt.Pixels = None,
    classes: opt.Classes = None,
    background_class: opt.BackgroundClass = None,
    reader: opt.Reader = None,
    labels: opt.Labels = None,
    keep_ink: opt.KeepInk = False,
    method: opt.TrainingMethod = None,
    backbone: opt.Backbone = None,
    weights: opt.Weights = None,
    trainable: opt.Trainable = None,
    epochs: opt.Epochs = None,
    eps: opt.Eps = None,
    positive_class: opt.PositiveClass = None,
    target: opt.Target = None,
    precision: opt.Precision = None,
    batch_size: opt.BatchSize = None,
    compile_network: opt.Compile = False,
    keep_patches: opt.KeepPatches = False,
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
    device: opt.RunDevice = None,
    seed: opt.Seed = None,
    folds: opt.Folds = None,
    preserve_site: opt.PreserveSite = None,
    test_manifest: opt.TestManifest = None,
    prevalence: opt.Prevalence = None,
    subgroups: opt.Subgroups = None,
    audit: opt.Audit = None,
    set_: opt.Set = None,
    pseudonymize: opt.Pseudonymize = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what it would do, need and take; write nothing."),
    ] = False,
    overwrite: opt.Overwrite = False,
    out_exists_ok: opt.OutExistsOk = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Do the whole job: tile, train (unless --model is given), explain, predict, stitch, export."""
    from pathology_scaat.pipeline.config import load_run_config
    from pathology_scaat.pipeline.settings import chosen

    tile_values = opt.tile_overrides(
        mpp, mag, patch_size, overlap, classes, reader, background_class, slide_mpp,
        allow_upsampling, keep_ink, pixels,
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
            "subgroups": opt.listed(subgroups),
            "tile": tile_values,
            "train": train_overrides(
                method, backbone, epochs, eps, positive_class, labels, weights, trainable
            ),
            "explain": {
                "target": target,
                "precision": precision,
                "batch_size": batch_size,
                "compile": compile_network or None,
            },
            "keep_patches": keep_patches or None,
            "stitch": mopt.map_overrides(map_mpp, ngff, weighting),
            "export": mopt.export_overrides(formats, qupath_origin, vmax, identified),
            "engine": opt.engine_overrides(workers, scheduler, cluster),
        },
        *chosen(set_ or ()),
    )
    from pathology_scaat.pipeline.run import run as step  # torch is not loaded for a wrong setting

    if settings.model is not None:
        from pathology_scaat.pipeline.preflight import refuse_unused_options
        from pathology_scaat.training.bundle_reading import read_bundle_config

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
    if dry_run:
        from pathology_scaat.cli.plan import print_plan
        from pathology_scaat.pipeline.plan_run import plan_run

        with progress_of(quiet) as reporter:
            plan = plan_run(settings, reporter)
            for note in plan.notes:
                reporter.note(note)
        print_plan(plan)
        return
    with progress_of(quiet) as reporter:
        report = step(settings, overwrite=overwrite, exists_ok=out_exists_ok, reporter=reporter)
    print_run(report)


@app.command(short_help="Try it: a small cohort with a known answer.")
def demo(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="Folder to make: scaat-demo if none.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The same, as an option.")] = None,
    labels: Annotated[
        Literal["patch", "slide"],
        typer.Option("--labels", help="patch: annotated slides; slide: one diagnosis per slide."),
    ] = "patch",
    workers: opt.Workers = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a small cohort with a known answer and run the whole job on it."""
    from pathology_scaat.artifacts.atomic import read_json
    from pathology_scaat.pipeline.demo import demo as annotated
    from pathology_scaat.pipeline.demo_labels import labelled_demo
    from pathology_scaat.slides.painted import FIGURES_OF_PAINTED

    if folder is not None and out is not None and folder != out:
        raise UsageError("--out", "names another folder than the argument", "give one of them")
    made = out or folder or Path("scaat-demo")
    with progress_of(quiet) as reporter:
        report = (labelled_demo if labels == "slide" else annotated)(
            made,
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
    stdout.print(FIGURES_OF_PAINTED, markup=False, highlight=False, soft_wrap=True)
    put_values(
        scores=read_json(report.run.out / "demo.json"), nothing_learnt=report.run.nothing_learnt
    )
    finish(report.run.stages, report.run.out, how_to_look(report.run.out))
