"""What a folder says of its results once there is another model in it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES, Fact
from pathology_scaat.artifacts.table_cells import id_cell
from pathology_scaat.pipeline.cohort_page import renew_cohort_page
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.pipeline.stage import FACTS_OF

OF_A_MODEL = STAGES[1:]


def results_are_of_before(
    out: Path, reporter: Reporter, slide_ids: Collection[str] | None = None
) -> None:
    """Take back what ``slides.csv`` says that a model did, since another one took its place.

    Maps and pictures stay; the page says that they are of an earlier run.

    Parameters
    ----------
    out : Path
        Output folder.
    reporter : Reporter
        Told where the page could not be written.
    slide_ids : collection of str, optional
        Only these; all by default.
    """
    status = StatusTable(out)
    nothing: dict[str, Fact] = dict.fromkeys(FACTS_OF["explain"], "")
    asked = None if slide_ids is None else set(map(id_cell, slide_ids))
    done = [
        row["slide_id"]
        for row in status.rows()
        if row["explain"] == "done" and (asked is None or row["slide_id"] in asked)
    ]
    if not done:
        return
    status.update_many(
        (slide_id, stage, "pending", "", nothing) for slide_id in done for stage in OF_A_MODEL
    )
    renew_cohort_page(out, reporter)
