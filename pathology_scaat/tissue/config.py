"""Settings of tissue detection, validated; importing them costs no compiled kernel."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TissueConfig(BaseModel):
    """How tissue is found. Sizes are in µm, so that they mean the same on every scanner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: float = Field(default=8.0, gt=0, le=64, description="µm per thumbnail pixel aimed at")
    max_side_px: int = Field(
        default=4096, ge=64, le=16384, description="longest side of the thumbnail at most"
    )
    sensitivity: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="above 1 keeps paler tissue, below 1 drops more of it",
    )
    min_area_um2: float = Field(
        default=10_000.0, ge=0, description="smaller islands of tissue are dropped"
    )
    max_hole_um2: float = Field(
        default=40_000.0, ge=0, description="smaller holes (vessels, fat cells) are filled"
    )
    close_radius_um: float = Field(
        default=24.0, ge=0, le=500, description="gaps narrower than twice this are bridged"
    )
    drop_ink: bool = Field(default=True, description="leave pen marks out (--keep-ink: no)")
    read_budget_mpx: float = Field(
        default=1500.0,
        gt=0,
        description="a slide whose coarsest usable level has more million pixels is sampled",
    )
