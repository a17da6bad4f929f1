"""``scaat report``: the documents that reviewers and readers ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.output import Json, put_values, stdout
from pathology_scaat.cli.output import note as add_note


@app.command(short_help="Model card and checklists of a finished run.")
def report(
    out: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    model: opt.Model = None,
    model_folder: Annotated[
        Path | None,
        typer.Option("--model-folder", help="Folder to make: the model as Hugging Face has it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model card, TRIPOD+AI and CLAIM checklists, and an RO-Crate of a run."""
    from pathology_scaat.evaluation.report.checklist import count
    from pathology_scaat.pipeline.report import report as step

    def say(text: str) -> None:
        stdout.print(text, markup=False, highlight=False, soft_wrap=True)

    done = step(out, model=model, model_folder=model_folder)
    for name, rows in done.checklists.items():
        n = count(rows)
        say(
            f"{name}: of {len(rows)} items {n['filled']} answered, {n['in part']} in part, "
            f"{n['open']} open"
        )
    put_values(
        out=out,
        files=done.files,
        checklists={name: count(rows) for name, rows in done.checklists.items()},
    )
    for note in done.notes:
        add_note(note)
        say(f"note: {note}")
    for path in done.files:
        say(f"written: {path}")
