"""Settings of stitching."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class StitchConfig(BaseModel):
    """How patch saliency becomes a slide map.

    The saliency of patch *i* is weighted by what the model holds the patch for:
    ``probability`` multiplies it by the probability of the target class, ``threshold`` keeps
    it where that probability reaches ``weight_threshold`` and sets it to zero elsewhere,
    ``none`` leaves it. Without a weight a patch that is normal beyond doubt has as high a saliency
    as tumour: its gradient is as large, only the evidence points the other way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: float | None = Field(
        default=None, gt=0, description="µm per map pixel; none: the saliency pixel as stored."
    )
    window: Literal["hann", "flat"] = Field(
        default="hann", description="Weight of a patch's pixels where patches overlap."
    )
    weighting: Literal["probability", "none", "threshold"] = Field(
        default="probability", description="How the target's probability weights saliency."
    )
    weight_threshold: float = Field(
        default=0.5, ge=0, le=1, description="Probability from which 'threshold' keeps saliency."
    )
    ngff: Literal["0.5", "0.4"] = Field(
        default="0.5",
        description="OME-Zarr version; 0.4 (Blosc, bioformats2raw layout) is what QuPath reads.",
    )
    memory_budget_bytes: int = Field(
        default=256 << 20,
        ge=16 << 20,
        description="Patch saliency held at once in a process; never changes the result.",
    )

    def parameters(self) -> dict[str, Any]:
        """The settings that decide the artifact's content."""
        return self.model_dump(exclude={"memory_budget_bytes"})

    def formula(self) -> str:
        """The saliency formula in words, for the artifact and the reader of a picture."""
        factor = {
            "probability": "p_i(target) * ",
            "none": "",
            "threshold": f"[p_i(target) >= {self.weight_threshold:g}] * ",
        }[self.weighting]
        return f"saliency(x) = sum_i w_i(x) * {factor}s_i(x) / sum_i w_i(x), w = {self.window}"
