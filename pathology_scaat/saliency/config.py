"""What a user can choose about explaining, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pathology_scaat.saliency.attributions import ATTRIBUTIONS, AUTO, check_method

Precision = Literal["float32", "bfloat16"]
"""What the arithmetic of a model comes to on a device."""

_SHORT = {"fp32": "float32", "bf16": "bfloat16"}


def _spelled(value: object) -> object:
    return _SHORT.get(value, value) if isinstance(value, str) else value


class ExplainConfig(BaseModel):
    """How saliency is computed; the same for every patch of every slide."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Annotated[str, AfterValidator(check_method)] = Field(
        default=AUTO,
        description="Attribution method; auto: as the model's reference maps were made, which is "
        "fused-cam or token-cam where the network allows it, else gradient.",
        json_schema_extra={"enum": [AUTO, *ATTRIBUTIONS.names]},
    )
    target: str | None = Field(
        default=None,
        description="Class that is explained on every patch, or several separated by commas; "
        "None is the positive class of two, and every class of more.",
    )
    output: Literal["margin", "margin-best", "logit"] = Field(
        default="margin",
        description="Score whose attribution is taken: log-odds of the class, or logit.",
    )
    stride_px: int = Field(
        default=4, ge=1, description="Output pixels averaged into one stored value, each way."
    )
    n_samples: int = Field(
        default=16, ge=1, description="SmoothGrad samples, Integrated Gradients steps."
    )
    noise_std: float = Field(
        default=0.1, ge=0, le=1, description="SmoothGrad noise, pixel units of 0..1."
    )
    n_masks: int = Field(default=400, ge=2, description="RISE's random masks, a forward pass each.")
    square_px: int = Field(
        default=8, ge=2, description="Side of what occlusion covers and of RISE's cells, in pixels."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of SmoothGrad's noise and of RISE's masks."
    )
    precision: Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_spelled)] = Field(
        default="auto",
        description="Arithmetic of the model: float32 (fp32), bfloat16 (bf16), or auto: float32, "
        "where a result in bfloat16 that is there already counts as right.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the network on a GPU (torch.compile; kept on the disk afterwards): "
        "some 20 s the first time, and more patches a second. Not in fingerprints.",
    )
    saliency_scale: float = Field(
        default=1024.0,
        gt=0,
        description=(
            "Stored value = attribution x this, the same for all slides, so that small "
            "gradients do not vanish in float16. Readers divide by it."
        ),
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Patches at once, by the device's memory if not given; not in fingerprints.",
    )
    patches_per_shard: int = Field(
        default=1024, ge=1, description="Patches in one file of the store; bounds the memory used."
    )


@dataclass(frozen=True)
class ExplainResult:
    """What explaining one slide did.

    ``n_clipped`` counts stored values beyond float16's range (cut to its largest number).
    ``unlike_share`` is the share of patches, 0 to 1, that are unlike the training data (None
    where the model does not know what its training data look like). ``n_unreadable`` counts
    patches that could not be decoded, where they were read from the slide.
    """

    slide_id: str
    path: Path
    fingerprint: str
    n_patches: int
    seconds: float
    skipped: bool
    mean_probability: float
    n_clipped: int = 0
    unlike_share: float | None = None
    n_unreadable: int | None = None
    notes: tuple[str, ...] = ()
