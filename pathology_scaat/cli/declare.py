"""How options are declared: by the setting that they set, or, of what is none, by their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import typer

SETTINGS: dict[str, Any] = {}
"""The declared option of each setting of a pipeline file that has one, by the setting's name."""


def completed(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell completes an option's value to: those of the names that begin so."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def completed_list(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """The same for the last name of a comma-separated option."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in completed(names)(last)]

    return complete


def setting_names(incomplete: str) -> list[str]:
    """Settings whose name begins so, for the shell to complete."""
    from pathology_scaat.pipeline.settings import all_settings

    return completed(lambda: (f"{setting.name}=" for setting in all_settings()))(incomplete)


def choices_of(setting: str) -> tuple[str, ...]:
    """The values that a setting takes; empty where it is not chosen from a list."""
    from pathology_scaat.pipeline.settings import all_settings  # only when a shell asks: slow

    return next(one.choices for one in all_settings() if one.name == setting)


def option(*names_and_help: str, choices: Iterable[str] = (), **more: Any) -> Any:
    """Declare an option that is no setting; for use in ``Annotated[type, option(...)]``.

    Parameters
    ----------
    *names_and_help : str
        ``--name`` (and ``-n``), then one sentence.
    choices : iterable of str
        Values that a shell completes.
    **more
        Further arguments of :func:`typer.Option`.
    """
    *names, sentence = names_and_help
    if known := tuple(choices):
        more["autocompletion"] = completed(lambda: known)
    return typer.Option(*names, help=sentence, **more)


def of(setting: str, name: str, sentence: str, **more: Any) -> Any:
    """Declare the option of a setting.

    Its sentence is given here: the setting's own would load all models of settings for each
    ``--help``. ``tests/cli/test_options_of_settings.py`` holds both together.

    Parameters
    ----------
    setting : str
        By its name in a pipeline file, such as ``stitch.mpp``.
    name : str
        ``--name``, or ``--name/--no-name``.
    sentence : str
        The help text.
    **more
        Further arguments of :func:`typer.Option`.
    """
    SETTINGS[setting] = declared = typer.Option(name, help=sentence, **more)
    return declared


def one_of(setting: str, name: str, sentence: str) -> Any:
    """:func:`of` a setting that takes one of some values, which the sentence names.

    A shell completes them.
    """
    return of(setting, name, sentence, autocompletion=completed(partial(choices_of, setting)))


def several_of(setting: str, name: str, sentence: str) -> Any:
    """:func:`one_of`, where several values may be given, with commas between them."""
    return of(setting, name, sentence, autocompletion=completed_list(partial(choices_of, setting)))
