"""The stages one by one: tile, train, explain, predict, stitch, export."""

from __future__ import annotations

from pathology_scaat.cli import heads
from pathology_scaat.cli import map_options as mopt
from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import (
    checked,
    cohort,
    engine_of,
    finish,
    how_to_look,
    needed,
    print_metrics,
    print_performance,
    progress_of,
    refuse_nothing_learnt,
    refuse_salt_alone,
    train_overrides,
)
from pathology_scaat.cli.method_options import MethodOption
from pathology_scaat.cli.output import Json, put_values
from pathology_scaat.errors import UsageError


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
    pixels: opt.Pixels = None,
    classes: opt.Classes = None,
    background_class: opt.BackgroundClass = None,
    reader: opt.Reader = None,
    labels: opt.Labels = None,
    keep_ink: opt.KeepInk = False,
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    pseudonymize: opt.Pseudonymize = None,
    slides: opt.Slides = None,
    overwrite: opt.Overwrite = False,
    out_exists_ok: opt.OutExistsOk = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Cut slides into zarr patch stores."""
    folder = needed(out, "--out")
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
        pixels,
    )
    with progress_of(quiet) as reporter:
        report = step(
            cohort(needed(manifest, "--manifest"), pseudonymize, folder),
            folder,
            config=checked(TileConfig, values, "tile options"),
            labels=checked(TrainConfig, {"labels": labels}, "tile options").labels,
            engine=engine_of(workers, scheduler, cluster),
            slide_ids=opt.slide_list(slides),
            overwrite=overwrite,
            exists_ok=out_exists_ok,
            reporter=reporter,
        )
    finish([report], folder)


@app.command(short_help="Train a model on labels of slides or of patches.")
def train(
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    labels: opt.Labels = None,
    features: opt.Features = None,
    target: opt.TargetColumns = None,
    grades: opt.Grades = None,
    time: opt.TimeColumn = None,
    event: opt.EventColumn = None,
    bags_of: opt.BagsOf = None,
    folds: opt.Folds = None,
    preserve_site: opt.PreserveSite = None,
    test_manifest: opt.TestManifest = None,
    method: opt.TrainingMethod = None,
    backbone: opt.Backbone = None,
    weights: opt.Weights = None,
    trainable: opt.Trainable = None,
    epochs: opt.Epochs = None,
    eps: opt.Eps = None,
    method_option: MethodOption = None,
    positive_class: opt.PositiveClass = None,
    data_years: opt.DataYears = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    workers: opt.LabelWorkers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Train a model on labels of slides or of patches, with SCAAT by default."""
    folder = needed(out, "--out")
    from pathology_scaat.pipeline.train import train as step
    from pathology_scaat.training import TrainConfig

    values = train_overrides(
        method, backbone, epochs, eps, positive_class, labels, weights, trainable, data_years,
        method_option,
    )  # fmt: skip
    settings = checked(TrainConfig, values, "train options")
    asked = heads.Asked(
        target or [], opt.listed(grades) or [], time, event, bags_of, folds, preserve_site,
        test_manifest,
    )  # fmt: skip
    if features is not None:
        heads.no_pseudonyms(pseudonymize)
        heads.refuse_engine_options(workers, scheduler, cluster)
        table = needed(manifest, "--manifest")
        heads.train(table, folder, features, asked, settings, seed or 0, overwrite, quiet)
        return
    heads.refuse_without_features(asked)
    if (unit := heads.bag_unit(bags_of)) is not None:
        settings = settings.model_copy(update={"bag": settings.bag.model_copy(update={"of": unit})})
    with progress_of(quiet) as reporter:
        result = step(
            cohort(needed(manifest, "--manifest"), pseudonymize, folder),
            folder,
            config=settings,
            device=device,
            seed=seed or 0,
            engine=engine_of(workers, scheduler, cluster),
            overwrite=overwrite,
            reporter=reporter,
        )
    put_values(out=folder, model=result.bundle_path, nothing_learnt=result.nothing_learnt)
    print_metrics(result.metrics)
    refuse_nothing_learnt(result.nothing_learnt)


@app.command(short_help="Class probabilities and saliency of every patch.")
def explain(
    out: opt.Out = None,
    model: opt.Model = None,
    method: opt.Attribution = None,
    target: opt.Target = None,
    precision: opt.Precision = None,
    batch_size: opt.BatchSize = None,
    compile_network: opt.Compile = False,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    slides: opt.Slides = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    as_json: Json = False,
) -> None:
    """Compute class probabilities and pixel saliency of every patch."""
    folder = needed(out, "--out")
    from pathology_scaat.pipeline.explain import explain as step
    from pathology_scaat.saliency import ExplainConfig

    values = {
        "method": method, "target": target, "precision": precision, "batch_size": batch_size,
        "compile": compile_network or None,
    }  # fmt: skip
    with progress_of(quiet) as reporter:
        report = step(
            folder,
            model=model,
            config=checked(ExplainConfig, values, "explain options"),
            device=device,
            engine=engine_of(workers, scheduler, cluster),
            slide_ids=opt.slide_list(slides),
            overwrite=overwrite,
            reporter=reporter,
        )
    finish([report], folder)


@app.command(short_help="Predict slides and patients; measure it.")
def predict(
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    model: opt.Models = None,
    features: opt.Features = None,
    ensemble: opt.Ensemble = False,
    test_manifest: opt.TestManifest = None,
    test_features: heads.TestFeatures = None,
    prevalence: opt.Prevalence = None,
    subgroups: opt.Subgroups = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    pseudonymize: opt.Pseudonymize = None,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Predict every slide and patient, and measure it where there are labels."""
    folder = needed(out, "--out")
    if features is not None:
        heads.no_pseudonyms(pseudonymize)
        heads.predict(
            needed(manifest, "--manifest"), folder, features, model or [], ensemble,
            test_manifest, test_features, opt.listed(subgroups) or [], prevalence, seed or 0, quiet,
        )  # fmt: skip
        return
    if test_features is not None:
        raise UsageError("--test-features", "does nothing without --features", "give both")
    from pathology_scaat.cohort.column import columns_of
    from pathology_scaat.pipeline.predict import predict as step
    from pathology_scaat.pipeline.predict import predicting_bundles
    from pathology_scaat.pipeline.tile import load_cohort

    bundles = predicting_bundles(folder, model or [], ensemble)
    table = needed(manifest, "--manifest")
    asked = cohort(table, pseudonymize, folder)
    tested = cohort(test_manifest, pseudonymize, folder) if test_manifest is not None else None
    groups: dict[str, dict[str, str]] | None = None
    said: tuple[str, ...] = ()
    if names := opt.listed(subgroups):
        tables = [(table, load_cohort(asked))]
        if test_manifest is not None and tested is not None:
            tables.append((test_manifest, load_cohort(tested)))
        groups, said = columns_of(tables, names)
    with progress_of(quiet) as reporter:
        for note in said:
            reporter.note(note)
        report = step(
            folder,
            manifest=asked,
            test_manifest=tested,
            models=tuple(bundles),
            prevalence=prevalence,
            subgroups=groups,
            device=device,
            seed=seed or 0,
            reporter=reporter,
        )
    put_values(out=folder)
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
    slides: opt.Slides = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    as_json: Json = False,
) -> None:
    """Blend patch saliency into slide maps."""
    folder = needed(out, "--out")
    from pathology_scaat.pipeline.stitch import stitch as step
    from pathology_scaat.stitching import StitchConfig

    values = mopt.map_overrides(map_mpp, ngff, weighting, weight_threshold, window)
    with progress_of(quiet) as reporter:
        report = step(
            folder,
            config=checked(StitchConfig, values, "stitch options"),
            engine=engine_of(workers, scheduler, cluster),
            slide_ids=opt.slide_list(slides),
            overwrite=overwrite,
            reporter=reporter,
        )
    finish([report], folder)


@app.command(short_help="Write maps as files that QuPath and others open.")
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
    draw_unlike: mopt.DrawUnlike = None,
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
    prune: mopt.Prune = False,
    slides: opt.Slides = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Write slide maps as files that QuPath and other viewers open; others stay."""
    folder = needed(out, "--out")
    from pathology_scaat.export import ExportConfig
    from pathology_scaat.pipeline.export import export as step

    refuse_salt_alone(manifest, pseudonymize)
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
        draw_unlike=draw_unlike,
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
            slide_ids=opt.slide_list(slides),
            overwrite=overwrite,
            prune=prune,
            reporter=reporter,
        )
    finish([report], folder, how_to_look(folder) if report.usable else ())
