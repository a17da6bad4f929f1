"""Settings of exporting."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pathology_scaat.export.exporters import EXPORTERS

Format = Annotated[
    str,
    AfterValidator(EXPORTERS.check),
    Field(json_schema_extra={"enum": list(EXPORTERS.names)}),
]
"""A registered export format."""


class ExportConfig(BaseModel):
    """Which files are written, in whose coordinates, and what is left out of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    formats: tuple[Format, ...] = Field(
        default=("geojson", "ome-tiff", "png", "figure"),
        description="Files to write for each slide.",
    )
    qupath_origin: Literal["bounds", "full"] = Field(
        default="bounds",
        description="Frame of the QuPath files: 'bounds' as QuPath opens a slide (cropped to the "
        "scanned area where the scanner states one), 'full' as OpenSlide sees the canvas.",
    )
    tile_shape: Literal["cell", "patch"] = Field(
        default="cell",
        description="'cell': overlapping patches are drawn as abutting cells of one step, in the "
        "middle of the patch; 'patch': whole patches, which then overlap.",
    )
    max_tiles: int = Field(
        default=250_000, ge=0, description="Most tiles in a GeoJSON; the most probable are kept."
    )
    max_regions: int = Field(
        default=300, ge=0, le=2000, description="Most annotations in a GeoJSON; largest are kept."
    )
    region_mpp: float = Field(default=8.0, gt=0, description="µm/px at which regions are outlined.")
    drawn: Literal["evidence", "saliency"] = Field(
        default="evidence",
        description="Map that is drawn first and that regions are cut from; the other one's values "
        "stay in the map.",
    )
    draw_unlike: bool = Field(
        default=False,
        description="Draw, outline and class tissue that is unlike the training data, too; it is "
        "hatched and bare otherwise, since what the model says of it counts for little.",
    )
    region_quantile: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Regions hold the pixels above this quantile of the slide's own values, "
        "instead of the model's threshold: then every slide has regions, a normal one too. None of "
        "a model that has learnt nothing.",
    )
    region_threshold: float | None = Field(
        default=None,
        ge=0,
        description="Evidence (0 to 1) that makes a region; none: the model's threshold, below "
        "which nothing is drawn either. A model that has learnt nothing has no region by any.",
    )
    region_min_probability: float = Field(
        default=0.5, ge=0, le=1, description="Target probability that a region needs as well."
    )
    min_region_um2: float = Field(default=5000.0, ge=0, description="Smaller regions are left out.")
    png_max_px: int = Field(
        default=2048, ge=64, le=16384, description="Longest side of the map in pictures."
    )
    vmax: float | None = Field(
        default=None,
        gt=0,
        description="Saliency at the top of its colour scale; none: the model's own, which is "
        "the same for all slides.",
    )
    evidence_top: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Evidence at the top of its colour scale; none: the model's own.",
    )
    colormap: Literal["viridis", "cividis", "magma", "inferno"] = Field(
        default="viridis", description="Colour-blind-safe colour map of the pictures."
    )
    identified: bool = Field(
        default=False,
        description="Allow DICOM objects, which carry the patient's data of their source.",
    )

    @model_validator(mode="after")
    def _no_percent(self) -> Self:
        if self.drawn == "evidence" and (self.region_threshold or 0) > 1:
            raise ValueError(
                f"region_threshold {self.region_threshold:g} is above all evidence, which is from "
                "0 to 1: there would be no region anywhere"
            )
        return self

    def parameters(self) -> dict[str, Any]:
        """The settings as JSON, as artifacts record them."""
        return self.model_dump(mode="json")
