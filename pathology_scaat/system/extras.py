"""Libraries of optional extras, imported where they are first needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from pathology_scaat.errors import UsageError


def need(module: str, extra: str, subject: str) -> ModuleType:
    """A library of an extra.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(
            subject, f"needs {module}", f"pip install 'pathology-scaat[{extra}]'"
        ) from None
