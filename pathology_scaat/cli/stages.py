"""The stages one by one: tile, train, explain, stitch, export, import-annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as mopt
from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import (
    checked,
    cohort,
    engine_of,
    finish,
    needed,
    no_salt_alone,
    print_metrics,
    print_performance,
    progress_of,
    refuse_silence,
    say_how_to_look,
    stderr,
    stdout,
    train_overrides,
)
from pathology_scaat.errors import BatchError


@app.command()
def tile(
    manifest: opt.Manifest = None,
    out: opt.Out = None,
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
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    out_exists_ok: opt.OutExistsOk = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Cut slides into zarr patch stores."""
    from pathology_scaat.patches import TileConfig
    from pathology_scaat.pipeline.tile import tile as step
    from pathology_scaat.training.config import TrainConfig

    values = opt.tile_overrides(
        mpp,
        mag,
        patch_size,
        overlap,
        classes,
        reader,
        background_class,
        slide_mpp,
        allow_upsampling,
        keep_ink,
    )
    folder = needed(out, "--out")
    with progress_of(quiet) as reporter:
        report = step(
            cohort(needed(manifest, "--manifest"), pseudonymize, folder),
            folder,
            config=checked(TileConfig, values, "tile options"),
            labels=checked(TrainConfig, {"labels": labels}, "tile options").labels,
            engine=engine_of(workers, scheduler, cluster),
            overwrite=overwrite,
            exists_ok=out_exists_ok,
            reporter=reporter,
        )
    finish([report], folder)


@app.command()
def train(
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    labels: opt.Labels = None,
    method: opt.TrainingMethod = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Network by name.")] = None,
    weights: opt.Weights = None,
    trainable: opt.Trainable = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Most epochs.")] = None,
    eps: Annotated[float | None, typer.Option("--eps", help="SCAAT's budget in [0, 1].")] = None,
    positive_class: opt.PositiveClass = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Train a model on labels of slides or of patches, with SCAAT unless told otherwise."""
    from pathology_scaat.pipeline.train import train as step
    from pathology_scaat.training import TrainConfig

    values = train_overrides(
        method, backbone, epochs, eps, positive_class, labels, weights, trainable
    )
    folder = needed(out, "--out")
    with progress_of(quiet) as reporter:
        result = step(
            cohort(needed(manifest, "--manifest"), pseudonymize, folder),
            folder,
            config=checked(TrainConfig, values, "train options"),
            device=device,
            seed=seed or 0,
            overwrite=overwrite,
            reporter=reporter,
        )
    print_metrics(result.metrics)
    refuse_silence(result.nothing_learnt)


@app.command()
def explain(
    out: opt.Out = None,
    model: opt.Model = None,
    method: Annotated[str | None, typer.Option("--method", help="Attribution method.")] = None,
    target: opt.Target = None,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compute class probabilities and pixel saliency of every patch."""
    from pathology_scaat.pipeline.explain import explain as step
    from pathology_scaat.saliency import ExplainConfig

    folder = needed(out, "--out")
    values = {"method": method, "target": target}
    with progress_of(quiet) as reporter:
        report = step(
            folder,
            model=model,
            config=checked(ExplainConfig, values, "explain options"),
            device=device,
            engine=engine_of(workers, scheduler, cluster),
            overwrite=overwrite,
            reporter=reporter,
        )
    finish([report], folder)


@app.command()
def predict(
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    model: opt.Model = None,
    prevalence: opt.Prevalence = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    pseudonymize: opt.Pseudonymize = None,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Predict every slide and patient, and measure it where there are labels."""
    from pathology_scaat.pipeline.predict import predict as step

    folder = needed(out, "--out")
    with progress_of(quiet) as reporter:
        report = step(
            folder,
            manifest=cohort(needed(manifest, "--manifest"), pseudonymize, folder),
            model=model,
            prevalence=prevalence,
            device=device,
            seed=seed or 0,
            reporter=reporter,
        )
    print_performance(report, folder)


@app.command()
def stitch(
    out: opt.Out = None,
    map_mpp: mopt.MapMpp = None,
    ngff: mopt.Ngff = None,
    weighting: mopt.Weighting = None,
    weight_threshold: mopt.WeightThreshold = None,
    window: mopt.Window = None,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Blend patch saliency into slide maps."""
    from pathology_scaat.pipeline.stitch import stitch as step
    from pathology_scaat.stitching import StitchConfig

    folder = needed(out, "--out")
    values = mopt.map_overrides(map_mpp, ngff, weighting, weight_threshold, window)
    with progress_of(quiet) as reporter:
        report = step(
            folder,
            config=checked(StitchConfig, values, "stitch options"),
            engine=engine_of(workers, scheduler, cluster),
            overwrite=overwrite,
            reporter=reporter,
        )
    finish([report], folder)


@app.command()
def export(
    out: opt.Out = None,
    manifest: opt.Manifest = None,
    formats: mopt.Formats = None,
    qupath_origin: mopt.QuPathOrigin = None,
    vmax: mopt.Vmax = None,
    colormap: mopt.Colormap = None,
    tile_shape: mopt.TileShape = None,
    max_tiles: mopt.MaxTiles = None,
    max_regions: mopt.MaxRegions = None,
    region_mpp: mopt.RegionMpp = None,
    evidence_top: mopt.EvidenceTop = None,
    drawn: mopt.Drawn = None,
    region_quantile: mopt.RegionQuantile = None,
    region_threshold: mopt.RegionThreshold = None,
    region_min_probability: mopt.RegionMinProbability = None,
    min_region_um2: mopt.MinRegion = None,
    png_max_px: mopt.PictureSize = None,
    identified: mopt.Identified = False,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    pseudonymize: opt.Pseudonymize = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Remove what earlier exports made in other formats, or of earlier maps.",
        ),
    ] = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Write slide maps as files that QuPath and other viewers open; others stay."""
    from pathology_scaat.export import ExportConfig
    from pathology_scaat.pipeline.export import export as step

    folder = needed(out, "--out")
    no_salt_alone(manifest, pseudonymize)
    values = mopt.export_overrides(
        formats,
        qupath_origin,
        vmax,
        identified,
        colormap=colormap,
        tile_shape=tile_shape,
        max_tiles=max_tiles,
        max_regions=max_regions,
        region_mpp=region_mpp,
        evidence_top=evidence_top,
        drawn=drawn,
        region_quantile=region_quantile,
        region_threshold=region_threshold,
        region_min_probability=region_min_probability,
        min_region_um2=min_region_um2,
        png_max_px=png_max_px,
    )
    with progress_of(quiet) as reporter:
        report = step(
            folder,
            manifest=cohort(manifest, pseudonymize, folder) if manifest else None,
            config=checked(ExportConfig, values, "export options"),
            engine=engine_of(workers, scheduler, cluster),
            overwrite=overwrite,
            prune=prune,
            reporter=reporter,
        )
    if report.usable:
        say_how_to_look(folder / "overlays")
    finish([report], folder)


@app.command("import-annotations")
def import_annotations(
    source: Annotated[Path, typer.Argument(help="GeoJSON from QuPath, or a folder of it.")],
    out: opt.Out = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for the labels; OUT/annotations if none.")
    ] = None,
    manifest: opt.Manifest = None,
    allow_urls: opt.AllowUrls = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Drop former annotations that did not come back, even if this halves the labels.",
        ),
    ] = False,
) -> None:
    """Bring annotations corrected in QuPath back as labels; those not touched are kept."""
    from pathology_scaat.export.qupath.import_annotations import import_annotations as step

    folder = needed(out, "--out")
    target = to or folder / "annotations"
    report = step(source, folder / "overlays", target, manifest=manifest, replace_former=replace)
    for one in report:
        stdout.print(one.summary(), markup=False, highlight=False, soft_wrap=True)
    for note in report.notes:
        stdout.print(note, markup=False, highlight=False, soft_wrap=True)
    if report.n_other:
        stdout.print(
            f"{report.n_other} other slide(s) of the manifest keep what they had",
            markup=False,
            highlight=False,
        )
    stdout.print(f"labels: {target}", markup=False, highlight=False)
    if manifest:
        stdout.print(f"for the next training: --manifest {target / 'manifest.csv'}",
                     markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    for why in report.failed.values():
        stderr.print(f"left out: {why}", markup=False, highlight=False, soft_wrap=True)
    if report.failed:
        raise BatchError(
            f"{len(report.failed)} file(s)", "could not be used", "the reasons are above"
        )
