"""``--method-option``: what a training method does, where and when, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pathology_scaat.cli.declare import option
from pathology_scaat.errors import UsageError

NAME = "--method-option"

MethodOption = Annotated[
    list[str] | None,
    option(
        NAME,
        "Option of the training method, such as start=0 or grid=network; see docs/concepts/"
        "scaat.md. Repeatable.",
        metavar="NAME=VALUE",
    ),
]


def method_options(eps: float | None, words: Sequence[str] | None) -> dict[str, Any] | None:
    """The options of the method that the command line names; None where it names none.

    Raises
    ------
    UsageError
        If one is not NAME=VALUE, cannot be read or is given twice.
    """
    import yaml

    found: dict[str, Any] = {} if eps is None else {"eps": eps}
    for word in words or ():
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not text.strip():
            raise UsageError(NAME, f"'{word[:60]}' is not NAME=VALUE", "write e.g. start=0")
        if name in found:
            raise UsageError(NAME, f"'{name}' is given twice", "give it once")
        try:
            found[name] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UsageError(NAME, f"'{word[:60]}' cannot be read", "write e.g. start=0") from None
    return found or None
