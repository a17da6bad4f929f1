"""What a command prints: lines for people, or with ``--json`` one document for programs.

With ``--json`` the lines for people go to standard error, and standard output holds one JSON
document, also where the command fails. Its keys are in docs/json.md.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from pathology_scaat import __version__
from pathology_scaat.errors import ScaatError

NO_TERMINAL_WIDTH = 100_000
"""Columns in a file or pipe: no path is broken into two lines, none of which can be found."""


def _width(stream: TextIO) -> int | None:
    """Columns of a stream: of a terminal (or ``COLUMNS``) as they are, or else without end."""
    return None if "COLUMNS" in os.environ or stream.isatty() else NO_TERMINAL_WIDTH


stdout = Console(width=_width(sys.stdout))
stderr = Console(stderr=True, width=_width(sys.stderr))


@dataclass
class _Document:
    """What the command that is running has to report to a program."""

    wanted: bool = False
    command: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None


_document = _Document()


def begin(arguments: Sequence[str] = ()) -> None:
    """Start an empty document; ``arguments`` say whether this command is asked for JSON."""
    global _document
    _document = _Document()
    stdout.stderr = False
    if "--json" in arguments and "--" not in arguments[: arguments.index("--json")]:
        _want(None)


def _want(command: str | None) -> None:
    _document.wanted = True
    _document.command = command
    stdout.stderr = True  # the lines for people


def _asked(ctx: typer.Context, value: bool) -> bool:
    if value:
        _want(ctx.info_name)
    return value


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        is_eager=True,  # a wrong option beside it is reported in JSON too
        callback=_asked,
        help="Print one JSON document (docs/json.md); lines for people go to stderr.",
    ),
]


def put_values(**values: Any) -> None:
    """Put values into the document."""
    _document.values |= values


def note(text: str) -> None:
    """Put a sentence that the user should read into the document."""
    _document.notes.append(text)


def fail(subject: str, problem: str, remedy: str = "") -> None:
    """Say in the document why the command failed."""
    _document.error = {"subject": subject, "problem": problem, "remedy": remedy}


def fail_with(error: ScaatError) -> None:
    """The same of an error of ours."""
    fail(error.subject, error.problem, error.remedy)


def end(exit_code: int) -> None:
    """Print the document, where it is wanted."""
    if not _document.wanted:
        return
    stdout.stderr = False
    document = {
        "command": _document.command,
        "version": __version__,
        "exit_code": exit_code,
        "error": _document.error,
        "notes": _document.notes,
        **_document.values,
    }
    _document.wanted = False
    typer.echo(json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """A value as JSON holds it: paths as text, None for what is no finite number."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's
        return plain(value.tolist())
    return str(value)
