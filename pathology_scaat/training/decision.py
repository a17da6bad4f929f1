"""``decision.json`` in a bundle's folder: what was chosen on the model's validation cases.

A model is trained before its validation slides are predicted as whole slides; what these then
chose (the threshold of calling a case positive, the certainty from which nobody is referred, how
slides become patients, and of models for patches the calibration of slides) is kept beside the
weights, so that the model is applied elsewhere as it was validated. The file holds a few numbers
and how many cases chose them; no case is in it. It names the model by its fingerprint, and has a
checksum of its own: ``config.json`` is not touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pathology_scaat.artifacts.atomic import read_json, write_text_if_changed
from pathology_scaat.artifacts.checksums import checked_json_text, text_problem, without_checksum
from pathology_scaat.errors import BundleError, StoreError

DECISION_NAME = "decision.json"
SCHEMA_NAME = "pathology_scaat.decision"
SCHEMA_VERSION = 1
MAX_BYTES = 1 << 20
REMEDY = (
    f"copy {DECISION_NAME} anew from where the model was made, or remove it (cases are then called "
    "from 0.5 on, and nobody is referred for want of certainty)"
)

_Score = Annotated[float, Field(ge=-1e-6, le=1 + 1e-6, allow_inf_nan=False)]
_Print = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class KeptThreshold(_Record):
    """From which probability of the positive class on a case is called positive."""

    threshold: _Score
    n: int = Field(gt=0, description="cases that chose it")


class KeptReferral(_Record):
    """Which classes stay possible: those whose score is no larger than the limit."""

    alpha: float = Field(gt=0, lt=1, description="share of patients whose class may be left out")
    n: int = Field(ge=0, description="patients that calibrated it")
    limit: _Score | None = Field(description="none where they were too few")


class Choice(_Record):
    """What some cases of known class chose."""

    chosen_on: Literal["validation", "out-of-fold"] = Field(
        description="cases that validated the model, or that models of folds never saw"
    )
    slide: KeptThreshold | None = Field(description="none of more than two classes")
    patient: KeptThreshold | None
    referral: KeptReferral
    patient_rule: Literal["mean", "largest"] = Field(description="how slides become patients")

    def threshold_of(self, unit: Literal["slide", "patient"]) -> KeptThreshold | None:
        """The threshold of slides, or of patients."""
        return self.slide if unit == "slide" else self.patient


class Together(_Record):
    """What was chosen for the models of all folds together."""

    models: tuple[_Print, ...] = Field(min_length=2, description="their fingerprints, sorted")
    choice: Choice


class SlideCalibration(_Record):
    """How scores of slides become probabilities, of a model for patches."""

    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)
    text: str = Field(max_length=300, description="in words, with how many slides")


class Decision(_Record):
    """What is kept with a model."""

    schema_name: Literal["pathology_scaat.decision"] = SCHEMA_NAME  # type: ignore[assignment]
    schema_version: Literal[1] = SCHEMA_VERSION  # type: ignore[assignment]
    model: _Print = Field(description="fingerprint of the model that it is of")
    step_px: int | None = Field(
        None, gt=0, description="from patch to patch on the slides that chose, px; none of features"
    )
    calibration: SlideCalibration | None = None
    alone: Choice | None = Field(None, description="where the model predicts by itself")
    together: Together | None = Field(None, description="where all folds predict together")


def write_decision(bundle: Path, decision: Decision) -> bool:
    """Write it into a bundle's folder, whole or not at all; whether anything changed."""
    return write_text_if_changed(
        bundle / DECISION_NAME, checked_json_text(decision.model_dump(mode="json"))
    )


def read_decision(bundle: Path, fingerprint: str) -> Decision | None:
    """What is kept with the model of this fingerprint; None where nothing is.

    Raises
    ------
    BundleError
        If the file is damaged, of another version, or of another model.
    """
    path = bundle / DECISION_NAME
    if not path.exists():
        return None

    def refused(problem: str) -> BundleError:
        return BundleError(bundle.name, problem, REMEDY)

    try:
        value: dict[str, Any] = read_json(path, max_bytes=MAX_BYTES)
    except (StoreError, OSError, ValueError):
        raise refused(f"has a {DECISION_NAME} that cannot be read") from None
    if value.get("schema_name") != SCHEMA_NAME:
        raise refused(f"has a {DECISION_NAME} that is no record of what validation cases chose")
    if (version := value.get("schema_version")) != SCHEMA_VERSION:
        raise refused(f"has a {DECISION_NAME} of schema version {version}, not {SCHEMA_VERSION}")
    if text_problem(path):
        raise refused(f"has a {DECISION_NAME} that was altered or is damaged")
    try:
        found = Decision.model_validate(without_checksum(value))
    except ValidationError as error:
        at = ".".join(str(part) for part in error.errors()[0]["loc"])[:60]
        raise refused(f"has a damaged {DECISION_NAME} ('{at}')") from None
    if found.model != fingerprint:
        raise refused(f"has a {DECISION_NAME} of another model")
    return found
