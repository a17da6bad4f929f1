"""Tables of other programs into a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import stdout
from pathology_scaat.errors import UsageError


@app.command("make-manifest")
def make_manifest(
    table: Annotated[
        Path, typer.Argument(help="CLAM's table (case_id, slide_id, label) or STAMP's clini table.")
    ],
    slides: Annotated[Path, typer.Option("--slides", help="Folder that the slides lie in.")],
    to: Annotated[Path, typer.Option("--to", help="Manifest to write (CSV).")] = Path("cohort.csv"),
    slide_table: Annotated[
        Path | None, typer.Option("--slide-table", help="STAMP's table PATIENT, FILENAME.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Column of STAMP's clini table to learn.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option("--splits", help="CLAM's splits_K.csv: train, val, test.")
    ] = None,
) -> None:
    """Make a manifest from the tables of CLAM or STAMP; nothing is left out unsaid."""
    from pathology_scaat.cohort.manifest import write_manifest
    from pathology_scaat.cohort.peer_tables import clam_manifest, stamp_manifest

    if (slide_table is None) != (target is None):
        raise UsageError(
            "--slide-table and --target", "belong together (STAMP's tables)", "give both or none"
        )
    if slide_table is not None and target is not None:
        if splits is not None:
            raise UsageError("--splits", "is for CLAM's table", "leave it out")
        found = stamp_manifest(table, slide_table, slides, target)
    else:
        found = clam_manifest(table, slides, splits)
    write_manifest(found, to)
    for note in found.notes:
        stdout.print(note, markup=False, highlight=False)
    labelled = sum(row.label is not None for row in found.rows)
    stdout.print(
        f"{to}: {len(found.rows)} slides, {labelled} with a label", markup=False, highlight=False
    )
