"""What must be read before the figures of an evaluation: of its model, and of its slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.annotations.on_tissue import OFF_TISSUE
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.table_cells import id_cell
from pathology_scaat.slides.painted import PAINTED_NOTE
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.bundle_quality import (
    LEARNT_FROM_PAINTED,
    HeldOut,
    nothing_learnt_warning,
)

MOST_SHOWN = 10
_DOUBTS = (OFF_TISSUE, "CHECK THE ", PAINTED_NOTE)
"""What stands in notes that make the figures of a slide doubtful, or no figures of tissue."""


def model_warning(held_out: HeldOut | None) -> str:
    """That a model has learnt nothing, and why; empty where it has, or nobody knows."""
    return "" if held_out is None else nothing_learnt_warning(held_out.nothing_learnt)


def doubts_of_model(config: BundleConfig) -> tuple[str, ...]:
    """That a model learnt from painted slides; nothing of others."""
    return (LEARNT_FROM_PAINTED,) if config.of_painted else ()


def doubts_of_slides(out: Path, slide_ids: Sequence[str]) -> tuple[str, ...]:
    """Sentences on slides whose annotations or µm/px were in doubt, or that are painted.

    Parameters
    ----------
    out : Path
        Output folder of a run, whose ``slides.csv`` holds the notes.
    slide_ids : sequence of str
        The slides that are measured on.

    Returns
    -------
    tuple of str
        At most :data:`MOST_SHOWN`, and one that counts the others.
    """
    noted = StatusTable(out).column("notes")
    found = [
        f"Slide {slide_id}: {note}"
        for slide_id in slide_ids
        for note in noted.get(id_cell(slide_id), "").split("; ")
        if any(mark in note for mark in _DOUBTS)
    ]
    more = len(found) - MOST_SHOWN
    others = (f"{more} more such notes stand in slides.csv.",) if more > 0 else ()
    return (*found[:MOST_SHOWN], *others)
