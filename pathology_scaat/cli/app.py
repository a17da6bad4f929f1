"""The application object that the commands hang on."""

from __future__ import annotations

import copy
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_name

from pathology_scaat import __version__
from pathology_scaat.cli.output import stdout

ORDER = (
    "demo", "run", "config", "doctor", "info", "verify",
    "tile", "train", "explain", "predict", "stitch", "export",
    "finetune", "import-model", "evaluate", "compare", "review", "import-review",
    "import-annotations", "make-manifest", "report",
)  # fmt: skip
"""As a newcomer meets them: try it, use it, look at it, its stages, and what comes after."""


class _Ordered(TyperGroup):
    """Lists its commands in `ORDER`; those that are not in it follow."""

    def list_commands(self, ctx: Any) -> list[str]:
        found = super().list_commands(ctx)
        known = [name for name in ORDER if name in found]
        return [*known, *(name for name in found if name not in known)]


def _name_of(function: Any) -> str:
    return get_command_name(function.__name__)


class _Application(typer.Typer):
    """Builds the parser of the command that is called, of twenty; without one, of all."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the words given, or else the command line, and run what they name."""
        words = args[0] if args else kwargs.get("args")
        first = next(iter(sys.argv[1:] if words is None else words), None)
        called = [
            command
            for command in self.registered_commands
            if first == (command.name or _name_of(command.callback))
        ]
        one = copy.copy(self)
        one.registered_commands = called or self.registered_commands
        return typer.Typer.__call__(one, *args, **kwargs)


app = _Application(
    name="scaat",
    cls=_Ordered,
    help="From a folder of whole-slide images to slide-level saliency maps that open in QuPath.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a folder of whole-slide images to slide-level saliency maps that open in QuPath."""
    if version:
        stdout.print(f"scaat {__version__}", highlight=False)
        raise typer.Exit
