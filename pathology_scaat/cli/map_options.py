"""Options of maps and exports, which 'stitch', 'export' and 'run' share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pathology_scaat.cli.options import listed

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
        "csv, annotation-store, dicom.",
    ),
]
QuPathOrigin = Annotated[
    str | None,
    typer.Option("--qupath-origin", help="bounds: as QuPath crops a slide; full: whole canvas."),
]
Vmax = Annotated[
    float | None, typer.Option("--vmax", help="Top of the colour scale, for a whole cohort.")
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
RegionMpp = Annotated[
    float | None, typer.Option("--region-mpp", help="µm/px at which regions are outlined.")
]
RegionQuantile = Annotated[
    float | None,
    typer.Option("--region-quantile", help="Regions: pixels above this quantile of the slide."),
]
RegionThreshold = Annotated[
    float | None,
    typer.Option("--region-threshold", help="Regions: pixels above this saliency instead."),
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
