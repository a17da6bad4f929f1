"""What a bundle says of a model that was trained elsewhere."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SourceKind = Literal["weights", "torchscript", "wsinfer", "monai"]

SCRIPT_BACKBONE = "torchscript"
"""Network name of a bundle whose network is a TorchScript file."""
UNKNOWN_METHOD = "unknown"
"""Training method of a model that was trained elsewhere."""


class ImportRecord(BaseModel):
    """Where a model came from; it is there for imported models alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: SourceKind = Field(description="what was read")
    source_sha256: str = Field(description="of the file with the weights")
    licence: str = Field("", description="of the weights, as whoever imported them wrote it")
    n_reference_patches: int = Field(
        0, ge=0, description="patches that the scale of colours was measured on; 0: none was given"
    )
