"""Registries: what can be chosen by name, built in or added by an installed package.

A name, its one-line summary and where it is implemented are written once; command-line help,
validation of settings and documentation all read them here. Another package adds to a registry
through an entry point of the registry's group::

    [project.entry-points."pathology_scaat.methods"]
    my-method = "my_package.module:MyMethod"

Nothing is imported until a name is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from typing import Any

from pathology_scaat.errors import UsageError
from pathology_scaat.system.names import did_you_mean


@dataclass(frozen=True)
class Extension:
    """Something that can be chosen by name.

    Attributes
    ----------
    name : str
        As users write it.
    target : str
        ``package.module:attribute``; imported when it is used.
    summary : str
        One line for help texts.
    provider : str
        Distribution that adds it; empty for what is built in.
    """

    name: str
    target: str
    summary: str
    provider: str = ""


@lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> Any:
    """Those of every group: reading what is installed costs the same for one group as for all."""
    return metadata.entry_points()


def closest_name(name: str, names: tuple[str, ...]) -> str:
    """What to say of an unknown name: ``did you mean 'x'? choose from x, y``."""
    return f"{did_you_mean(name, names)} choose from {', '.join(names)}".strip()


class Registry:
    """Extensions of one kind: built in, or from entry points of one group.

    Parameters
    ----------
    kind : str
        What is registered, as errors name it ("method", "reader").
    group : str
        Entry-point group that other packages use.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._known: dict[str, Extension] = {}
        self._discovered = False

    def register(self, name: str, target: str, summary: str, provider: str = "") -> None:
        """Add an extension; a name that is taken stays with the first who had it."""
        self._known.setdefault(name, Extension(name, target, summary, provider))

    def _all(self) -> dict[str, Extension]:
        if not self._discovered:
            self._discovered = True
            for point in _entry_points(tuple(sys.path)).select(group=self.group):
                provider = point.dist.name if point.dist is not None else "another package"
                self.register(point.name, point.value, f"added by {provider}", provider)
        return self._known

    def __iter__(self) -> Iterator[Extension]:
        return iter(self._all().values())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    @property
    def built_in(self) -> tuple[Extension, ...]:
        """Those of this package, without looking for others."""
        return tuple(e for e in self._known.values() if not e.provider)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, built-in ones first."""
        return tuple(self._all())

    def check(self, name: str) -> str:
        """The name itself, where it is known: for validators of settings.

        Raises
        ------
        ValueError
            If it is not; the message proposes the nearest name.
        """
        if name not in self._all():
            raise ValueError(f"'{name}' is no {self.kind}; {closest_name(name, self.names)}")
        return name

    def load(self, name: str, option: str = "") -> Any:
        """Import what a name stands for.

        Parameters
        ----------
        name : str
            A registered name.
        option : str
            The option that errors speak of, such as ``--method``.

        Raises
        ------
        UsageError
            If the name is unknown, or another package's module cannot be imported.
        """
        subject = option or self.kind
        if name not in self._all():
            raise UsageError(subject, f"'{name}' is unknown", closest_name(name, self.names))
        extension = self._known[name]
        module, _, attribute = extension.target.partition(":")
        if not extension.provider:
            return getattr(import_module(module), attribute)
        try:
            return getattr(import_module(module), attribute)
        except Exception as error:  # foreign code may raise anything
            raise UsageError(
                subject,
                f"'{name}' of {extension.provider} cannot be imported ({type(error).__name__})",
                f"reinstall or remove {extension.provider}",
            ) from None
