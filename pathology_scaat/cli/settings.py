"""``scaat config``: every setting, for people, editors and programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.output import Json, put_values
from pathology_scaat.errors import UsageError


@app.command(short_help="Every setting, with its default, range and meaning.")
def config(
    pipeline: Annotated[
        Path | None, typer.Argument(help="Print the settings of this file; else the defaults.")
    ] = None,
    set_: opt.Set = None,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON schema of a pipeline file, for editors."),
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of docs/settings.md.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Print the settings of 'scaat compare' instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print every setting of a run as a pipeline file: its value, what it does, what it takes.

    What is printed is a whole file for 'scaat run', with the two required paths left to fill in.
    """
    from pathology_scaat.pipeline import settings
    from pathology_scaat.pipeline.config import load_run_config, read_yaml

    if schema + markdown + as_json > 1:
        raise UsageError("--schema, --markdown, --json", "print one thing each", "give one of them")
    if compare and (schema or markdown or pipeline is not None or set_):
        raise UsageError(
            "--compare", "prints the defaults of a comparison", "give it alone, or with --json"
        )
    values = None
    if pipeline is not None or set_:
        if schema or markdown:
            raise UsageError(
                "--schema, --markdown", "know no values", "leave the file and --set out"
            )
        given = read_yaml(pipeline) if pipeline is not None else {}
        example = {
            name: value
            for name, value in {"manifest": "cohort.csv", "out": "out"}.items()
            if name not in given and "schema" not in given
        }
        words, problems = settings.chosen(set_ or ())
        example = {name: value for name, value in example.items() if name not in words}
        values = load_run_config(pipeline, example, words, problems)
    if schema:
        typer.echo(json.dumps(settings.json_schema(), indent=2, ensure_ascii=False))
    elif markdown:
        typer.echo(settings.as_markdown(), nl=False)
    elif as_json:
        groups = settings.compare_groups() if compare else settings.groups(values)
        put_values(settings=[one.as_dict() for group in groups for one in group.settings])
    elif compare:
        typer.echo(settings.compare_as_yaml(), nl=False)
    else:
        typer.echo(settings.as_yaml(values), nl=False)
