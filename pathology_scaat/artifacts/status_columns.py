"""What ``slides.csv`` says: its columns, the stages of a slide, and the states of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Stage = Literal["tile", "explain", "stitch", "export"]
State = Literal["pending", "done", "skipped", "failed"]
Fact = str | int | float | None

STAGES: Final[tuple[Stage, ...]] = ("tile", "explain", "stitch", "export")
STATES: Final[tuple[State, ...]] = ("pending", "done", "skipped", "failed")
FACTS: Final = (
    "n_patches",
    "n_unreadable",
    "n_labelled",
    "mpp",
    "mpp_source",
    "reader",
    "split",
    "patient",
    "in_manifest",
    "unlike_training",
    "predicted",
    "probabilities",
    "uncertainty",
    "refer",
    "notes",
)
COLUMNS: Final = ("slide_id", *STAGES, "reason", *FACTS)

StatusChange: TypeAlias = tuple[str, Stage, State, str, Mapping[str, Fact]]
"""Slide id, stage, state, reason, facts: as :meth:`.status.StatusTable.update` takes them."""
