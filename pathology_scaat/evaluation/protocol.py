"""What is measured, how much of it, and which number decides: fixed before training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pathology_scaat.saliency.attributions import ATTRIBUTIONS


class ProtocolConfig(BaseModel):
    """Settings of an evaluation; the same for every model that is compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    primary: str = Field(
        default="srg/blur/probability",
        description="The one measure named before training that decides; the rest describe.",
    )
    auc_margin: float = Field(
        default=0.005,
        ge=0,
        description="Largest loss of AUC that counts as no loss (lower end of the interval).",
    )
    method: Annotated[str, AfterValidator(ATTRIBUTIONS.check)] = Field(
        default="gradient",
        description="Attribution method that is judged.",
        json_schema_extra={"enum": list(ATTRIBUTIONS.names)},
    )
    n_samples: int = Field(default=8, ge=1, description="Samples of SmoothGrad or steps of IG.")
    max_images: int = Field(
        default=10_000, ge=1, description="Images for prediction, sparsity and localisation."
    )
    max_pixels: int = Field(
        default=100_000_000,
        ge=1,
        description="Pixels of all images together, which bounds the memory: 7 bytes each.",
    )
    n_occluded: int = Field(
        default=192, ge=0, description="Images for deletion and insertion (the costly part)."
    )
    n_perturbed: int = Field(
        default=64, ge=0, description="Images for infidelity, sensitivity, stability, weights."
    )
    n_mosaics: int = Field(default=128, ge=0, description="Mosaics of the pointing game.")
    occluders: tuple[Literal["mean", "blur", "noisy-linear", "swap"], ...] = Field(
        default=("mean", "blur", "noisy-linear", "swap"), description="What hides pixels."
    )
    shares: tuple[float, ...] = Field(
        default=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0), description="Hidden shares of the curves."
    )
    cell_px: int | None = Field(
        default=None, ge=1, description="Side of hidden cells; None is 1/24 of the patch."
    )
    pointing_tolerance_px: int = Field(default=3, ge=0, description="Distance that is a hit.")
    noise: float = Field(
        default=2 / 255, gt=0, lt=1, description="Noise of sensitivity and stability, 0..1 units."
    )
    batch_size: int = Field(default=64, ge=1, description="Images at once; changes no result.")
    seed: int = Field(default=0, ge=0, description="Of orders, noise and mosaics.")
