"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pathology_scaat.artifacts.urls import allow_urls
from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.names import METHODS
from pathology_scaat.slides.readers import reader_choices

TrainingMethod = Annotated[
    str | None,
    typer.Option("--method", help=f"Training method: {', '.join(METHODS.names)}."),
]
Manifest = Annotated[
    Path | None,
    typer.Option("--manifest", help="Cohort table (CSV or Parquet) or a folder of slides."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Output folder.")]
Mpp = Annotated[float | None, typer.Option("--mpp", help="µm per pixel of the patches.")]
SlideMpp = Annotated[
    float | None,
    typer.Option(
        "--slide-mpp", help="µm per pixel of slides that state none that can be believed."
    ),
]
AllowUpsampling = Annotated[
    bool,
    typer.Option("--allow-upsampling", help="Let patches be more than twice as fine as the scan."),
]
Mag = Annotated[
    float | None, typer.Option("--mag", help="Alias of --mpp as a magnification: 20 is 0.5 µm/px.")
]
PatchSize = Annotated[
    int | None, typer.Option("--patch-size", help="Side of a patch in pixels at --mpp.")
]
Overlap = Annotated[
    str | None, typer.Option("--overlap", help="Overlap of neighbours: a ratio (0.5) or 64px.")
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help="Class names, comma-separated; others are ignored."),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Class to explain; the positive one by default.")
]
BackgroundClass = Annotated[
    str | None,
    typer.Option(
        "--background-class",
        help="Class of the tissue outside the annotations, on slides that have some.",
    ),
]
PositiveClass = Annotated[
    str | None,
    typer.Option(
        "--positive-class", help="Class that saliency speaks of; chosen by its name if not given."
    ),
]
Reader = Annotated[
    str | None,
    typer.Option("--reader", help=f"Force a reader: {', '.join(reader_choices())}."),
]
KeepInk = Annotated[
    bool,
    typer.Option("--keep-ink", help="Count what looks like pen ink as tissue; see docs/tissue.md."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Local worker processes; the machine's by default.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", help="Address of a running Dask scheduler, or: local (with a dashboard)."
    ),
]
Cluster = Annotated[
    Path | None, typer.Option("--cluster", help="Profile of a job queue (YAML, see pipelines/).")
]
AllowUrls = Annotated[
    str | None,
    typer.Option(
        "--allow-urls",
        metavar="LIST",
        callback=allow_urls,
        help="What slides by URL may do besides: http, private-hosts, redirects (with commas).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of split, training and methods.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Make artifacts anew even where the right ones exist.")
]
OutExistsOk = Annotated[
    bool,
    typer.Option(
        "--out-exists-ok", help="Write into a folder that holds other files, beside them."
    ),
]
Model = Annotated[Path | None, typer.Option("--model", help="Model bundle to apply.")]
Pseudonymize = Annotated[
    Path | None,
    typer.Option(
        "--pseudonymize",
        metavar="SALT",
        help="Give slides and patients pseudonyms; SALT is a file outside of --out.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help="Learn from: slide (one label each, in bags), patch (annotations), copy (the slide's "
        "label on every patch; a control), or auto: slide where there are no annotations.",
    ),
]
Folds = Annotated[
    int | None,
    typer.Option("--folds", help="Cross-validation by patient: a model for each of so many folds."),
]
PreserveSite = Annotated[
    str | None,
    typer.Option(
        "--preserve-site", metavar="COLUMN", help="Keep equal values of this column in one fold."
    ),
]
TestManifest = Annotated[
    Path | None,
    typer.Option("--test-manifest", help="An external cohort: all of it is tested on."),
]
Prevalence = Annotated[
    float | None,
    typer.Option(
        "--prevalence", help="Share of positive patients at which predictive values are given."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


def numbers(text: str | None, option: str) -> list[int] | None:
    """The whole numbers of a comma-separated option; None where it was not given.

    Raises
    ------
    UsageError
        If anything in it is not a whole number of at least 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(option, f"'{text}' is no list of whole numbers", "write 0,1,2,3,4")
    return [int(part) for part in parts]


def listed(text: str | None) -> list[str] | None:
    """The names of a comma-separated option; None where it was not given."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def tile_overrides(
    mpp: float | None,
    mag: float | None,
    patch_size: int | None,
    overlap: str | None,
    classes: str | None,
    reader: str | None,
    background_class: str | None = None,
    slide_mpp: float | None = None,
    allow_upsampling: bool = False,
    keep_ink: bool = False,
) -> dict[str, Any]:
    """The tile settings that the command line names (None where it names nothing)."""
    from pathology_scaat.errors import UsageError
    from pathology_scaat.geometry import mpp_from_magnification

    if mag is not None:
        if mpp is not None:
            raise UsageError("--mag", "says the same as --mpp", "give one of them")
        mpp = mpp_from_magnification(mag)
    return {
        "mpp": mpp,
        "patch_size_px": patch_size,
        "overlap": overlap,
        "class_names": listed(classes),
        "reader": reader,
        "slide_mpp": slide_mpp,
        "allow_upsampling": allow_upsampling or None,
        "tissue": {"drop_ink": False if keep_ink else None},
        "background_class": background_class,
    }


def engine_overrides(
    workers: int | None, scheduler: str | None, cluster: Path | None
) -> dict[str, Any]:
    """The engine settings that the command line names."""
    return {"workers": workers, "scheduler": scheduler, "cluster": cluster}


MapMpp = Annotated[
    float | None,
    typer.Option("--map-mpp", help="µm per map pixel; that of the saliency by default."),
]
Ngff = Annotated[
    str | None, typer.Option("--ngff", help="OME-Zarr version: 0.5, or 0.4, which QuPath reads.")
]
Weighting = Annotated[
    str | None,
    typer.Option(
        "--weighting", help="Saliency times probability, or: none, threshold. See docs/exports.md."
    ),
]
WeightThreshold = Annotated[
    float | None,
    typer.Option("--weight-threshold", help="Probability from which 'threshold' keeps saliency."),
]
Window = Annotated[
    str | None, typer.Option("--window", help="Blending of overlapping patches: hann or flat.")
]
Formats = Annotated[
    str | None,
    typer.Option(
        "--formats",
        help="Comma-separated: geojson, geojson-plain, ome-tiff, rgb-tiff, tile-png, png, figure, "
        "csv, annotation-store, dicom, dicom-map, dicom-sr.",
    ),
]
QuPathOrigin = Annotated[
    str | None,
    typer.Option("--qupath-origin", help="bounds: as QuPath crops a slide; full: whole canvas."),
]
Vmax = Annotated[
    float | None,
    typer.Option("--vmax", help="Saliency at the top of its scale; the model's own if none."),
]
Colormap = Annotated[
    str | None,
    typer.Option("--colormap", help="Colours of pictures: viridis, cividis, magma, inferno."),
]
TileShape = Annotated[
    str | None,
    typer.Option("--tile-shape", help="Tiles in QuPath: cell (abutting) or patch (overlapping)."),
]
MaxTiles = Annotated[
    int | None, typer.Option("--max-tiles", help="Most tiles in a GeoJSON; the likeliest stay.")
]
MaxRegions = Annotated[
    int | None, typer.Option("--max-regions", help="Most regions in a GeoJSON; 0 for none.")
]
EvidenceTop = Annotated[
    float | None,
    typer.Option("--evidence-top", help="Evidence (0 to 1) at the top; the model's own if none."),
]
Drawn = Annotated[
    str | None,
    typer.Option("--drawn", help="Map that is drawn and cut into regions: evidence or saliency."),
]
RegionMpp = Annotated[
    float | None, typer.Option("--region-mpp", help="µm/px at which regions are outlined.")
]
RegionQuantile = Annotated[
    float | None,
    typer.Option(
        "--region-quantile", help="Regions: pixels above this quantile of the slide's own."
    ),
]
RegionThreshold = Annotated[
    float | None,
    typer.Option("--region-threshold", help="Regions: pixels above this evidence (0 to 1)."),
]
RegionMinProbability = Annotated[
    float | None,
    typer.Option("--region-min-probability", help="Probability that a region needs as well."),
]
MinRegion = Annotated[
    float | None, typer.Option("--min-region-um2", help="Smallest region in µm².")
]
PictureSize = Annotated[
    int | None, typer.Option("--png-max-px", help="Longest side of the map in pictures.")
]
Identified = Annotated[
    bool, typer.Option("--identified", help="Allow DICOM objects that name the patient.")
]


def map_overrides(
    mpp: float | None,
    ngff: str | None,
    weighting: str | None,
    weight_threshold: float | None = None,
    window: str | None = None,
) -> dict[str, Any]:
    """The stitch settings that the command line names."""
    return {
        "mpp": mpp,
        "ngff": ngff,
        "weighting": weighting,
        "weight_threshold": weight_threshold,
        "window": window,
    }


def export_overrides(
    formats: str | None, qupath_origin: str | None, vmax: float | None, identified: bool,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The export settings that the command line names."""
    return {
        "formats": listed(formats),
        "qupath_origin": qupath_origin,
        "vmax": vmax,
        "identified": identified or None,
        **more,
    }
