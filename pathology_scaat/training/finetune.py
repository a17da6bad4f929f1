"""Settings of a short training that goes on from a finished model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pathology_scaat.scaat.names import METHODS
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.config import TrainConfig

RATE_SHARE = 0.1
"""Of the learning rate that the model was trained with."""
UNKNOWN_RATE = 1e-4
"""Where the model does not say what it was trained with: small enough for any network."""

KEPT = (
    "augment", "batch_size", "weight_decay", "grad_clip", "label_smoothing", "noise_tolerance",
    "class_balance", "multi_label_min_coverage", "validation_share", "trainable",
)  # fmt: skip
"""Settings that go on as the model was trained, where it says so."""


class FinetuneConfig(BaseModel):
    """How a finished model is trained on; everything else stays as it was trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Annotated[str, AfterValidator(METHODS.check)] = Field(
        "scaat", description=f"one of {', '.join(METHODS.names)}; from the first step on"
    )
    method_options: dict[str, Any] = Field(
        default_factory=dict, description="options of the method, e.g. eps in [0, 1] units"
    )
    epochs: int = Field(4, ge=1, le=10_000, description="most epochs: a fifth of what 'train' does")
    learning_rate: float | None = Field(
        None, gt=0, description="a tenth of the model's own if not given; 1e-4 if it is not known"
    )


def finetune_settings(parent: BundleConfig, config: FinetuneConfig) -> TrainConfig:
    """Training settings that continue a model: its network and habits, few epochs, a low rate."""
    try:
        known: TrainConfig | None = TrainConfig.model_validate(
            {k: v for k, v in parent.training.items() if k in TrainConfig.model_fields}
        )
    except ValidationError:  # of another version, or of another program
        known = None
    is_known = known is not None and "learning_rate" in parent.training
    own = known or TrainConfig()
    rate = RATE_SHARE * own.learning_rate if is_known else UNKNOWN_RATE
    begins_at_once = config.method == "plain" or "start" in config.method_options
    options = config.method_options if begins_at_once else {**config.method_options, "start": 0.0}
    return TrainConfig(
        **{name: getattr(own, name) for name in KEPT},
        backbone=parent.backbone,
        backbone_options=parent.backbone_options,
        positive_class=parent.positive_class,
        multi_label=parent.multi_label,
        method=config.method,
        method_options=options,
        epochs=config.epochs,
        patience=config.epochs,
        learning_rate=config.learning_rate or rate,
        data_years=parent.data_years is not None,  # else half of them would be recorded as all
    )
