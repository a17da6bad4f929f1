"""What can be done of a slide as soon as it is explained: its map, and its overlays.

A slide's overlays tell the model's prediction of the whole slide, which is written down when all
slides are explained. Here it is computed from this one slide, by the same functions. Where other
slides enter after all (some calibrate), the export stage sees other words, and exports again.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.leases import LeasedJob, run_leased
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import ManifestRow
from pathology_scaat.errors import ScaatError
from pathology_scaat.pipeline.export import ExportJob, in_words, run_export_job, with_prediction


@dataclass(frozen=True)
class ExportAhead:
    """A slide's export before its prediction is written down.

    ``job`` tells nothing of a prediction; ``model`` is the bundle that makes it.
    """

    job: ExportJob
    out: Path
    row: ManifestRow
    model: Path


@dataclass(frozen=True)
class AheadJob:
    """What follows on explaining a slide; ``export`` is None where that has to wait."""

    slide_id: str
    stitch: LeasedJob[Any, Any]
    export: ExportAhead | None = None


@dataclass(frozen=True)
class MadeAhead:
    """Which artifacts of a slide were made, and not found."""

    slide_id: str
    stitched: bool = False
    exported: bool = False


def work_ahead(job: AheadJob) -> MadeAhead:
    """Stitch a slide, then export it; what fails is left to the stages, which say why."""
    made = MadeAhead(job.slide_id)
    try:
        made = replace(made, stitched=not run_leased(job.stitch).skipped)
        if job.export is not None and (ready := _with_words(job.export)) is not None:
            folder = ready.overlay_dir / job.slide_id
            leased = LeasedJob(run_export_job, ready, folder, slide_id=job.slide_id)
            made = replace(made, exported=not run_leased(leased).skipped)
    except ScaatError:
        return made
    return made


def _with_words(ahead: ExportAhead) -> ExportJob | None:
    """The job with the slide's prediction; None where that cannot be told yet.

    Raises
    ------
    StoreError, BundleError
        If patches or model cannot be read.
    """
    from pathology_scaat.evaluation.performance.calling import called_slides
    from pathology_scaat.evaluation.performance.predictions import (
        parse_predictions,
        predictions_text,
    )
    from pathology_scaat.pipeline.kept_decision import kept_choice, with_decisions
    from pathology_scaat.pipeline.members import FoldModel, said_of_one

    slide_id = ahead.row.slide_id
    (one,) = with_decisions([FoldModel(None, ahead.model, None)])
    said = said_of_one(one, ahead.row, Workspace(ahead.out))
    if said is None:
        return None
    kept = kept_choice([one.decision])
    rows = called_slides(said.rows, said.class_names, said.positive, kept)
    text = predictions_text(rows, said.class_names, said.positive)
    try:
        # As the table rounds them, so that the words are the same to the last digit.
        read, names = parse_predictions(io.StringIO(text, newline=""))
    except (ValueError, KeyError, csv.Error):
        return None
    words = in_words(read, names, said.calibration).get(slide_id)
    return replace(ahead.job, facts=with_prediction(ahead.job.facts, words))
