"""Configuration of a model bundle."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.training.bags.config import BagHeadConfig

SCHEMA_NAME = "pathology_scaat.model"


SCHEMA_VERSION = 1


class BundleConfig(BaseModel):
    """What a bundle says about its model."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_name: str = Field(SCHEMA_NAME, description="always pathology_scaat.model")
    schema_version: int = Field(SCHEMA_VERSION, description="version of this file's form")
    class_names: tuple[str, ...] = Field(min_length=1, description="in the order of the logits")
    positive_class: str = Field(description="class the saliency speaks of by default")
    multi_label: bool = Field(False, description="sigmoid for each class instead of softmax")
    patch_size_px: int = Field(gt=0, description="side of a patch, px")
    mpp: float = Field(gt=0, description="µm per patch px")
    backbone: str = Field(description="network name")
    backbone_options: dict[str, Any] = Field(default_factory=dict)
    mean: tuple[float, float, float] = Field(description="subtracted inside the model, [0, 1]")
    std: tuple[float, float, float] = Field(description="divided by inside the model, [0, 1]")
    method: str = Field("plain", description="training method")
    method_options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict, description="training settings, seed")
    dataset_fingerprint: str = Field("", description="of patches, labels and splits")
    training_fingerprint: str = Field("", description="of data, settings and seed")
    metrics: dict[str, float] = Field(default_factory=dict)
    temperature: float = Field(
        1.0, gt=0, description="divide logits by it for calibrated probabilities; not applied"
    )
    weights_sha256: str = Field("", description="of model.safetensors")
    versions: dict[str, str] = Field(default_factory=dict)
    bag: BagHeadConfig | None = Field(
        None, description="additive head of a model for bags; none for a model for patches"
    )


def model_fingerprint(config: BundleConfig) -> str:
    """Fingerprint of a bundle; library versions and measured metrics do not enter."""
    # what models for patches do not have does not enter, so that their fingerprints stay
    absent = {"bag"} if config.bag is None else set()
    return fingerprint(config.model_dump(mode="json", exclude={"versions", "metrics", *absent}))
