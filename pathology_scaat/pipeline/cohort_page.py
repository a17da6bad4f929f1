"""The page of all exported slides: what failed, the trust card, where models differ."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES
from pathology_scaat.pipeline.disagreement import disagreement_words

CARD = "evaluation/trust_card.md"
"""Where ``scaat evaluate`` puts the trust card, in the output folder."""


def write_cohort_page(out: Path) -> None:
    """Write ``out/overlays/index.html`` and the contact sheet, unless the right ones are there.

    Raises
    ------
    ExportError
        If no slide is exported.
    """
    # Pictures are drawn here alone: whoever only predicts does not wait for what draws.
    from pathology_scaat.export.report.cohort import write_cohort
    from pathology_scaat.export.report.records import FailedSlide

    status = StatusTable(out)
    failed = [
        FailedSlide(row["slide_id"], stage, row["reason"])
        for row in status.failed()
        for stage in STAGES
        if row[stage] == "failed"
    ]
    earlier = {slide.slide_id: f"the last run failed in {slide.stage}" for slide in failed}
    # Tiled, explained or stitched since: what lies there was made of something else.
    earlier |= {
        row["slide_id"]: "what it was made of was made anew since; export it again"
        for row in status.rows()
        if row["export"] == "pending" and row["tile"] != "pending"
    }
    earlier |= dict.fromkeys(status.not_in_manifest(), "not in the manifest of the last run")
    write_cohort(
        Workspace(out).overlays,
        failed=failed,
        earlier=earlier,
        slide_notes=status.column("notes"),
        card=f"../{CARD}" if (out / CARD).is_file() else None,
        differences=disagreement_words(out),
    )
