"""The application object that the commands hang on."""

from __future__ import annotations

from typing import Annotated

import typer

from pathology_scaat import __version__
from pathology_scaat.cli.common import stdout

app = typer.Typer(
    name="scaat",
    help="From a folder of whole-slide images to slide-level saliency maps that open in QuPath.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a folder of whole-slide images to slide-level saliency maps that open in QuPath."""
    if version:
        stdout.print(f"scaat {__version__}", highlight=False)
        raise typer.Exit
