"""Training settings, validated; importing them costs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pathology_scaat.scaat.names import METHODS
from pathology_scaat.training.bags.config import BagConfig, LabelSource
from pathology_scaat.training.encoders import ENCODERS

LORA = r"lora(-[0-9]{1,3})?"
"""Low-rank adaptation, as ``trainable`` names it (:mod:`.lora`)."""


class AugmentConfig(BaseModel):
    """Random changes of a training patch, all on the device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orientation: bool = Field(True, description="flips and quarter turns, exact")
    stain: float = Field(
        0.15, ge=0, le=1, description="spread of each stain's strength (haematoxylin, eosin, DAB)"
    )
    stain_shift: float = Field(
        0.02, ge=0, le=1, description="spread of a uniform shift of each stain, optical density"
    )
    brightness: float = Field(0.1, ge=0, le=1, description="spread of the brightness factor")
    contrast: float = Field(0.1, ge=0, le=1, description="spread of the contrast factor")
    saturation: float = Field(0.1, ge=0, le=1, description="spread of the saturation factor")

    @classmethod
    def off(cls) -> AugmentConfig:
        """No augmentation at all."""
        return cls(
            orientation=False, stain=0, stain_shift=0, brightness=0, contrast=0, saturation=0
        )


class TrainConfig(BaseModel):
    """How a model is trained. The defaults suit a small CNN on a laptop."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    labels: LabelSource = Field(
        "auto", description="what is learnt from: labels of slides, or of patches"
    )
    bag: BagConfig = Field(default_factory=BagConfig, description="for labels of slides")
    backbone: str = Field(
        "scaat-small",
        description=f"'scaat-small', any timm model name, or one of {', '.join(ENCODERS)}",
    )
    backbone_options: dict[str, Any] = Field(
        default_factory=dict, description="options of timm.create_model, e.g. init_values"
    )
    backbone_weights: Path | None = Field(
        None, description="local weight file (safetensors, or a tensor-only .pt); never downloaded"
    )
    trainable: str = Field(
        "all",
        pattern=rf"^(all|head|last-[0-9]+|{LORA})$",
        description="all, head, last-N blocks, or lora (lora-RANK): low-rank adapters",
    )
    method: Annotated[str, AfterValidator(METHODS.check)] = Field(
        "scaat",
        description="training method",
        json_schema_extra={"enum": list(METHODS.names)},
    )
    method_options: dict[str, Any] = Field(
        default_factory=dict, description="options of the method, e.g. eps in [0, 1] units"
    )
    multi_label: bool = Field(
        False, description="several classes may hold at once: labels from the covered area"
    )
    multi_label_min_coverage: float = Field(
        0.25, gt=0, le=1, description="share of the patch from which a class counts as present"
    )
    positive_class: str | None = Field(
        None, description="class the saliency speaks of; by its name or the last one if not given"
    )
    epochs: int = Field(20, ge=1, le=100_000, description="most epochs")
    patience: int = Field(
        6, ge=1, description="epochs without a smaller validation loss before stopping"
    )
    min_improvement: float = Field(
        1e-3, ge=0, description="smallest gain in the calibrated validation loss that counts, nats"
    )
    choice_tolerance: float = Field(
        5e-3, ge=0, description="the latest epoch within this much of the least loss is kept, nats"
    )
    batch_size: int = Field(64, ge=1, description="images per step, over all processes")
    max_steps_per_epoch: int | None = Field(None, ge=1, description="cut long epochs short")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW, after warm-up")
    weight_decay: float = Field(0.02, ge=0, description="not applied to norms and biases")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps warming up")
    final_rate_share: float = Field(0.01, ge=0, le=1, description="end of the cosine schedule")
    grad_clip: float | None = Field(1.0, gt=0, description="largest gradient norm, or none")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")
    noise_tolerance: float = Field(
        0.0, ge=0, le=1, description="exponent q of generalised cross-entropy; 0 = cross-entropy"
    )
    class_balance: Literal["weights", "sampling", "none"] = Field(
        "weights", description="weigh the loss by class, sample classes evenly, or neither"
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="moving average of the weights that is kept; 0 = none"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bfloat16 autocast where the GPU has it, else float32"
    )
    channels_last: bool = Field(True, description="memory layout that convolutions prefer")
    compile: bool = Field(False, description="torch.compile the network")
    devices: int = Field(1, ge=1, le=64, description="processes, one per GPU (gloo on the CPU)")
    deterministic: bool = Field(
        True, description="same seed, same weights (bit for bit on the CPU)"
    )
    normalisation: Literal["auto", "dataset", "imagenet", "half"] = Field(
        "auto", description="auto: the weights' own where given, else the training patches'"
    )
    cache_bytes: int = Field(
        4 << 30, ge=0, description="keep training patches in memory up to this size"
    )
    validation_share: float = Field(
        0.2, gt=0, lt=1, description="held-out blocks where no slide is for validation"
    )
    monitor_images: int = Field(
        64, ge=0, description="training images for the overfitting monitor each epoch; 0 = off"
    )
    data_years: bool = Field(
        False,
        description="record in the model the year of training, and the years of the scans that "
        "it learnt from, as far as the slides' files state them; nothing finer",
    )
    tensorboard: bool = Field(False, description="also write TensorBoard events")

    @property
    def not_given(self) -> set[str]:
        """Settings that leave the model as it was before they existed, unless they are given."""
        return set() if self.data_years else {"data_years"}
