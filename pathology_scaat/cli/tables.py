"""What comes in from other programs: tables into a manifest, annotations into labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import needed
from pathology_scaat.cli.output import Json, put_values, stderr, stdout
from pathology_scaat.cli.output import note as add_note
from pathology_scaat.errors import BatchError, ManifestError, UsageError

MOST_LABELS = 10
"""Labels that are printed with their counts."""


@app.command("make-manifest", short_help="A manifest from tables of CLAM or STAMP.")
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
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            help="Further columns to take along, by commas: a site, grades, time and event.",
        ),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option("--splits", help="CLAM's splits_K.csv, or splits_K_bool.csv.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a manifest from the tables of CLAM or STAMP; nothing is left out unsaid."""
    from collections import Counter

    from pathology_scaat.cohort.manifest import manifest_text, read_manifest, write_manifest
    from pathology_scaat.cohort.peer_tables import clam_manifest, stamp_manifest
    from pathology_scaat.cohort.spelling import refuse_divided_patients

    further = tuple(dict.fromkeys(opt.listed(columns) or ()))
    if slide_table is None:
        if target is not None:
            raise UsageError("--target", "is for STAMP's tables", "give --slide-table too")
        found = clam_manifest(table, slides, splits, further)
    else:
        if splits is not None:
            raise UsageError("--splits", "is for CLAM's table", "leave it out")
        if target is None and not further:
            raise UsageError(
                "--slide-table", "needs a column to learn", "give --target, or --columns"
            )
        found = stamp_manifest(table, slide_table, slides, target, further)
    if to.exists() and to.read_bytes() != manifest_text(found, to.absolute().parent).encode():
        raise UsageError(
            f"--to {to.name}", "is there already and says something else",
            "give another name, or move it away",
        )  # fmt: skip
    # A run would refuse it, but name the manifest.
    refuse_divided_patients(found.rows, to.name if splits is None else splits.name)
    was_there = to.exists()
    write_manifest(found, to)
    try:
        read = read_manifest(to, needs_slides=False)
    except ManifestError:
        if not was_there:
            to.unlink()
        raise
    for note in (*found.notes, *(f"{to.name}: {said}" for said in read.notes)):
        add_note(note)
        stdout.print(note, markup=False, highlight=False, soft_wrap=True)
    put_values(manifest=to, n_slides=len(found.rows))
    labelled = sum(row.label is not None for row in found.rows)
    counts = Counter(row.label for row in found.rows if row.label is not None)
    put_values(n_labelled=labelled, labels=dict(counts))
    stdout.print(
        f"{to}: {len(found.rows)} slide{'' if len(found.rows) == 1 else 's'}, {labelled} with a "
        "label",
        markup=False,
        highlight=False,
    )
    for label, count in counts.most_common(MOST_LABELS):
        stdout.print(f"  {count} '{label}'", markup=False, highlight=False)
    if len(counts) > MOST_LABELS:
        stdout.print(f"  and {len(counts) - MOST_LABELS} other labels", highlight=False)


@app.command("import-annotations", short_help="Labels from annotations corrected in QuPath.")
def import_annotations(
    source: Annotated[Path, typer.Argument(help="GeoJSON from QuPath, or a folder of it.")],
    out: opt.Out = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for the labels; OUT/annotations if none.")
    ] = None,
    manifest: opt.Manifest = None,
    allow_urls: opt.AllowUrls = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Drop former annotations that did not come back, even if this halves the labels.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring annotations corrected in QuPath back as labels; those not touched are kept."""
    from pathology_scaat.export.qupath.import_annotations import import_annotations as step

    folder = needed(out, "--out")
    target = to or folder / "annotations"
    report = step(source, folder / "overlays", target, manifest=manifest, replace_former=replace)
    put_values(
        out=folder,
        labels=target,
        slides=report.slides,
        failed=report.failed,
        n_other=report.n_other,
    )
    for one in report:
        stdout.print(one.summary(), markup=False, highlight=False, soft_wrap=True)
    for note in report.notes:
        add_note(note)
        stdout.print(note, markup=False, highlight=False, soft_wrap=True)
    if report.n_other:
        stdout.print(
            f"{report.n_other} other slide(s) of the manifest keep what they had",
            markup=False,
            highlight=False,
        )
    stdout.print(f"labels: {target}", markup=False, highlight=False)
    if manifest:
        stdout.print(f"for the next training: --manifest {target / 'manifest.csv'}",
                     markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    for why in report.failed.values():
        stderr.print(f"left out: {why}", markup=False, highlight=False, soft_wrap=True)
    if report.failed:
        raise BatchError(
            f"{len(report.failed)} file(s)", "could not be used", "the reasons are above"
        )
