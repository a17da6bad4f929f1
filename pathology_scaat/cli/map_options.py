"""Options of slide maps and of what is exported from them, spelled once."""

from __future__ import annotations

from typing import Annotated, Any

from pathology_scaat.cli.declare import of, one_of, option, several_of
from pathology_scaat.cli.options import listed
from pathology_scaat.export.exporters import EXPORTERS

MapMpp = Annotated[
    float | None,
    of("stitch.mpp", "--map-mpp", "µm per map pixel; that of the saliency by default."),
]
Ngff = Annotated[
    str | None,
    one_of("stitch.ngff", "--ngff", "OME-Zarr version: 0.5, or 0.4, which QuPath reads."),
]
Weighting = Annotated[
    str | None,
    one_of(
        "stitch.weighting",
        "--weighting",
        "Saliency times probability, none, or threshold (where it is likely); see docs/exports.md.",
    ),
]
WeightThreshold = Annotated[
    float | None,
    of(
        "stitch.weight_threshold",
        "--weight-threshold",
        "Probability from which 'threshold' keeps saliency.",
    ),
]
Window = Annotated[
    str | None,
    one_of("stitch.window", "--window", "Blending of overlapping patches: hann or flat."),
]
Formats = Annotated[
    str | None,
    several_of("export.formats", "--formats", f"Comma-separated: {', '.join(EXPORTERS.names)}."),
]
QuPathOrigin = Annotated[
    str | None,
    one_of(
        "export.qupath_origin",
        "--qupath-origin",
        "bounds: as QuPath crops a slide; full: whole canvas.",
    ),
]
Vmax = Annotated[
    float | None,
    of("export.vmax", "--vmax", "Saliency at the top of its scale; the model's own if none."),
]
Colormap = Annotated[
    str | None,
    one_of(
        "export.colormap", "--colormap", "Colours of pictures: viridis, cividis, magma or inferno."
    ),
]
TileShape = Annotated[
    str | None,
    one_of(
        "export.tile_shape",
        "--tile-shape",
        "Tiles in QuPath: cell (abutting) or patch (overlapping).",
    ),
]
MaxTiles = Annotated[
    int | None,
    of("export.max_tiles", "--max-tiles", "Most tiles in a GeoJSON; the likeliest stay."),
]
MaxRegions = Annotated[
    int | None, of("export.max_regions", "--max-regions", "Most regions in a GeoJSON; 0 for none.")
]
EvidenceTop = Annotated[
    float | None,
    of(
        "export.evidence_top",
        "--evidence-top",
        "Evidence (0 to 1) at the top; the model's own if none.",
    ),
]
Drawn = Annotated[
    str | None,
    one_of(
        "export.drawn", "--drawn", "Map that is drawn and cut into regions: evidence or saliency."
    ),
]
DrawUnlike = Annotated[
    bool | None,
    of(
        "export.draw_unlike",
        "--draw-unlike/--no-draw-unlike",
        "Colour tissue unlike the training data, too; hatched and bare otherwise.",
    ),
]
RegionMpp = Annotated[
    float | None, of("export.region_mpp", "--region-mpp", "µm/px at which regions are outlined.")
]
RegionQuantile = Annotated[
    float | None,
    of(
        "export.region_quantile",
        "--region-quantile",
        "Regions: pixels above this quantile of the slide's own.",
    ),
]
RegionThreshold = Annotated[
    float | None,
    of(
        "export.region_threshold",
        "--region-threshold",
        "Regions: pixels above this evidence (0 to 1).",
    ),
]
RegionMinProbability = Annotated[
    float | None,
    of(
        "export.region_min_probability",
        "--region-min-probability",
        "Probability that a region needs as well.",
    ),
]
MinRegion = Annotated[
    float | None, of("export.min_region_um2", "--min-region-um2", "Smallest region in µm².")
]
PictureSize = Annotated[
    int | None, of("export.png_max_px", "--png-max-px", "Longest side of the map in pictures.")
]
Identified = Annotated[
    bool, of("export.identified", "--identified", "Allow DICOM objects that name the patient.")
]
Prune = Annotated[
    bool,
    option("--prune", "Remove what earlier exports made in other formats, or of earlier maps."),
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
