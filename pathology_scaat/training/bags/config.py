"""Settings of bag learning, validated; importing them costs no torch."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LabelSource = Literal["auto", "slide", "mixed", "copy", "patch"]
"""What a model learns from, as :data:`LABEL_SOURCES` says it (a test holds the two together)."""

LABEL_SOURCES: Final[dict[str, str]] = {
    "auto": "slide where the manifest has labels and no annotations, else patch",
    "slide": "the slide's label, from bags of its patches (multiple-instance learning)",
    "mixed": "both: annotated patches where there are some, and the slides' labels, from bags",
    "copy": "the slide's label copied onto each of its patches: wrong for every patch that does "
    "not show the class; a control",
    "patch": "labels of the patches, from annotations",
}

POOLINGS: Final[dict[str, str]] = {
    "gated": "attention with a gate (Ilse et al. 2018)",
    "attention": "attention without a gate",
    "mean": "every patch counts the same",
    "top": "of each class the patches that speak most for it, a fixed share of the bag",
}
"""How a bag's patches are weighed; the head is additive in all of them."""


def _known_pooling(name: str) -> str:
    if name not in POOLINGS:
        raise ValueError(f"'{name}' is no pooling: choose from {', '.join(POOLINGS)}")
    return name


class BagHeadConfig(BaseModel):
    """What a bundle must know to build the head of a bag model again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pooling: Annotated[str, AfterValidator(_known_pooling)] = Field(
        "gated",
        description="how a bag's patches are weighed",
        json_schema_extra={"enum": list(POOLINGS)},
    )
    attention_width: int = Field(64, ge=1, le=4096, description="hidden units of the attention")
    top_share: float = Field(
        0.1, gt=0, le=1, description="share of a bag's patches that 'top' pools, one at least"
    )


BagUnit = Literal["slide", "patient"]
"""What one bag is."""


class BagConfig(BagHeadConfig):
    """How a model is trained on labels of slides."""

    of: BagUnit = Field(
        "slide", description="what one bag is: a slide, or all slides of a patient together"
    )
    bags_per_step: int = Field(
        16,
        ge=2,
        le=1024,
        description="slides in one step: with few of them stains and other differences between "
        "slides hide what only a few of their patches show",
    )
    patches_per_bag: int = Field(
        16, ge=2, le=65536, description="patches drawn at random from a slide for one step"
    )
    draws_per_epoch: int = Field(
        16, ge=1, le=1000, description="bags drawn from each training slide in one epoch"
    )
    attention_steps: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="steps at the end in which attention alone learns from whole slides, on "
        "features that are computed once; 0: none",
    )
    attention_patches: int = Field(
        1024,
        ge=2,
        description="patches of a training slide, spread evenly over it, that attention learns "
        "from at the end",
    )
    start: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of training that is plain before the training method begins: an "
        "adversary from the first step keeps a bag model from finding the few patches that count",
    )
    batch_norm: Literal["auto", "batch", "frozen"] = Field(
        "auto",
        description="normalise training steps by the patches of all their bags, or by the "
        "statistics of the weight file; auto: frozen where backbone_weights are given",
    )
    statistics_patches: int = Field(
        1024,
        ge=16,
        description="patches, spread evenly over the training slides, from which the statistics "
        "of BatchNorm are taken anew after each epoch",
    )
    annotated_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the patches of an epoch that are annotated ones, where labels are "
        "mixed and there are any",
    )
    validation_patches: int = Field(
        256, ge=1, description="patches of a validation slide that are looked at each epoch"
    )

    def head(self) -> BagHeadConfig:
        """The part that the bundle keeps."""
        return BagHeadConfig(**{k: getattr(self, k) for k in BagHeadConfig.model_fields})
