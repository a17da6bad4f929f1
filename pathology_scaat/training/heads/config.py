"""What a head on features learns, and what its bundle says; importing this costs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pathology_scaat.training.bags.config import BagHeadConfig
from pathology_scaat.training.bundle_quality import NOTHING_LEARNT

SCHEMA_NAME = "pathology_scaat.head"
SCHEMA_VERSION = 1
Kind = Literal["classes", "grades", "survival"]
Unit = Literal["slide", "patient"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Target(BaseModel):
    """What is to be predicted of a slide or a patient, and by which columns of the cohort's table.

    ``classes`` exclude each other and have no order; ``grades`` are classes in rising order
    (a proportional-odds model); ``survival`` is a time and whether the event was seen (Cox).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "classes"
    column: str = Field("label", description="column of the classes or grades, or of the time")
    event_column: str = Field("", description="column of the event, 1 or 0; of survival alone")
    names: tuple[str, ...] = Field((), description="classes, or grades from lowest to highest")

    @property
    def n_outputs(self) -> int:
        """Numbers that patches contribute to: one a class; one score of grades or risk."""
        return len(self.names) if self.kind == "classes" else 1


class HeadBundleConfig(BaseModel):
    """What the bundle of a head says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_name: str = SCHEMA_NAME
    schema_version: int = SCHEMA_VERSION
    target: Target
    positive_class: str = ""
    unit: Unit = Field("slide", description="what one bag is: a slide, or all slides of a patient")
    n_features: int = Field(gt=0)
    encoder: str = Field(
        "", description="as the files of features name it; empty where they do not"
    )
    patches: tuple[str, ...] = Field(
        (),
        description="size and magnification of the training patches as the files state them; "
        "empty where they do not",
    )
    head: BagHeadConfig
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    calibration: str = ""
    median_risk: Finite | None = Field(None, description="of the training patients; of survival")
    training: dict[str, Any] = Field(default_factory=dict)
    training_fingerprint: str = ""
    slides: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="keyed hashes of the features, by what they served for"
    )
    patients: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="keyed hashes of patient ids, by what they served for"
    )
    counts: dict[str, int] = Field(default_factory=dict, description="training bags of each class")
    metrics: dict[str, Finite] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    weights_sha256: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def nothing_learnt(self) -> str:
        """Why the head is no better than guessing; empty where it is better, or not known."""
        warning = next((n for n in self.notes if n.startswith(NOTHING_LEARNT)), "")
        return warning.removeprefix(f"{NOTHING_LEARNT}: ").rstrip(".")
