"""The page of all exported slides: what failed, the trust card, where models differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.output_names import PAGE
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES
from pathology_scaat.errors import ExportError
from pathology_scaat.pipeline.disagreement import disagreement_words
from pathology_scaat.pipeline.reporting import Reporter

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
    from pathology_scaat.saliency.methods_of_maps import method_of_each

    status = StatusTable(out)
    failed = [
        FailedSlide(row["slide_id"], stage, row["reason"])
        for row in status.failed()
        if row["in_manifest"] != "no"  # it was not the last run that failed with it
        for stage in STAGES
        if row[stage] == "failed"
    ]
    earlier = {slide.slide_id: f"the last run failed in {slide.stage}" for slide in failed}
    for row in status.rows():
        if row["tile"] != "pending" and (why := _waits_for(row)):
            earlier.setdefault(row["slide_id"], why)
    earlier |= dict.fromkeys(status.not_in_manifest(), "not in the manifest of the last run")
    model, method = _card_is_of(out)
    write_cohort(
        Workspace(out).overlays,
        failed=failed,
        earlier=earlier,
        slide_notes=status.column("notes"),
        card=f"../{CARD}" if (out / CARD).is_file() else None,
        card_of=model,
        card_method=method,
        slide_methods=partial(method_of_each, out),
        differences=disagreement_words(out),
    )


def _waits_for(row: Mapping[str, str]) -> str:
    """Why the slide of this row has pictures of an earlier run; empty where it has not.

    A stage that made something marks all stages after it as pending; one that was interrupted
    is pending alone.
    """
    waiting = [stage for stage in STAGES[1:] if row[stage] == "pending"]
    if not waiting:
        return ""
    begun, anew = f"{waiting[0]} was begun since and did not end", "what it was made of was made"
    if any(row[stage] == "done" for stage in STAGES[STAGES.index(waiting[0]) :]):
        return f"{begun}; {waiting[0]} it again"
    if waiting[0] == STAGES[-1]:
        return f"{anew} anew since, or {begun}; {waiting[0]} it again"
    return f"{anew} anew since; {waiting[0]} it again"


def renew_cohort_page(out: Path, reporter: Reporter) -> None:
    """Write the page anew where there is one, since what it says has changed."""
    if not (Workspace(out).overlays / PAGE).is_file():
        return
    try:
        write_cohort_page(out)
    except ExportError as error:
        reporter.note(f"The page of all slides could not be renewed: {error}")


def _card_is_of(out: Path) -> tuple[str, str]:
    """Fingerprint of the model and method of the maps that the trust card is of; else empty."""
    try:
        found = json.loads((out / CARD).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "", ""
    if not isinstance(found, dict):
        return "", ""
    return str(found.get("model_fingerprint", "")), str(found.get("explanation_method", ""))
