"""Options of slide maps and of what is exported from them, spelled once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pathology_scaat.cli.options import completed, completed_list, listed
from pathology_scaat.export.exporters import EXPORTERS

MapMpp = Annotated[
    float | None,
    typer.Option("--map-mpp", help="µm per map pixel; that of the saliency by default."),
]
Ngff = Annotated[
    str | None,
    typer.Option(
        "--ngff",
        help="OME-Zarr version: 0.5, or 0.4, which QuPath reads.",
        autocompletion=completed(("0.5", "0.4")),
    ),
]
Weighting = Annotated[
    str | None,
    typer.Option(
        "--weighting",
        help="Saliency times probability, none, or threshold (where it is likely); see "
        "docs/exports.md.",
        autocompletion=completed(("probability", "none", "threshold")),
    ),
]
WeightThreshold = Annotated[
    float | None,
    typer.Option("--weight-threshold", help="Probability from which 'threshold' keeps saliency."),
]
Window = Annotated[
    str | None,
    typer.Option(
        "--window",
        help="Blending of overlapping patches: hann or flat.",
        autocompletion=completed(("hann", "flat")),
    ),
]
Formats = Annotated[
    str | None,
    typer.Option(
        "--formats",
        help=f"Comma-separated: {', '.join(EXPORTERS.names)}.",
        autocompletion=completed_list(EXPORTERS.names),
    ),
]
QuPathOrigin = Annotated[
    str | None,
    typer.Option(
        "--qupath-origin",
        help="bounds: as QuPath crops a slide; full: whole canvas.",
        autocompletion=completed(("bounds", "full")),
    ),
]
Vmax = Annotated[
    float | None,
    typer.Option("--vmax", help="Saliency at the top of its scale; the model's own if none."),
]
Colormap = Annotated[
    str | None,
    typer.Option(
        "--colormap",
        help="Colours of pictures: viridis, cividis, magma or inferno.",
        autocompletion=completed(("viridis", "cividis", "magma", "inferno")),
    ),
]
TileShape = Annotated[
    str | None,
    typer.Option(
        "--tile-shape",
        help="Tiles in QuPath: cell (abutting) or patch (overlapping).",
        autocompletion=completed(("cell", "patch")),
    ),
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
    typer.Option(
        "--drawn",
        help="Map that is drawn and cut into regions: evidence or saliency.",
        autocompletion=completed(("evidence", "saliency")),
    ),
]
DrawUnlike = Annotated[
    bool | None,
    typer.Option(
        "--draw-unlike/--no-draw-unlike",
        help="Colour tissue unlike the training data, too; hatched and bare otherwise.",
    ),
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
Prune = Annotated[
    bool,
    typer.Option(
        "--prune", help="Remove what earlier exports made in other formats, or of earlier maps."
    ),
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
