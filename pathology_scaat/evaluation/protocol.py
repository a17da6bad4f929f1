"""What is measured, how much of it, and which number decides: fixed before training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attributions import ATTRIBUTIONS, AUTO, check_method
from pathology_scaat.saliency.explanation import chosen_method
from pathology_scaat.training.bundle_config import BundleConfig


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
    method: Annotated[str, AfterValidator(check_method)] = Field(
        default=AUTO,
        description="Attribution method that is judged; auto: the one that explaining uses by "
        "itself with these models.",
        json_schema_extra={"enum": [AUTO, *ATTRIBUTIONS.names]},
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


def with_method(config: ProtocolConfig, models: Iterable[BundleConfig]) -> ProtocolConfig:
    """The settings with the method that explaining uses by itself with these models.

    Raises
    ------
    UsageError
        If it is not the same with all of them: their maps cannot be compared.
    """
    if config.method != AUTO:
        return config
    methods = sorted({chosen_method(AUTO, model) for model in models})
    if len(methods) > 1:
        raise UsageError(
            "the models", f"are explained by different methods ({' and '.join(methods)})",
            "name one in the protocol (method: gradient), or compare models of one network",
        )  # fmt: skip
    return config.model_copy(update={"method": methods[0]})
