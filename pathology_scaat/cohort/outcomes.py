"""Columns of a cohort's table that say what became of a patient: a time, and whether an event."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pathology_scaat.errors import ManifestError

SEEN = {"1", "1.0", "true", "yes", "event", "dead", "deceased", "1:deceased"}
NOT_SEEN = {"0", "0.0", "false", "no", "censored", "alive", "living", "0:living"}
"""What a cell of the event may say, without regard to case."""


def times_of(cells: Mapping[str, str], column: str) -> dict[str, float]:
    """Times by slide id, 0 or more, in the table's own unit.

    Raises
    ------
    ManifestError
        If a cell is no such number.
    """
    found = {}
    for slide, text in cells.items():
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise ManifestError(
                f"column {column}",
                f"says '{text[:40]}' for slide '{slide}', which is no time",
                "give a number, 0 or more, or leave the cell empty",
            )
        found[slide] = value
    return found


def events_of(cells: Mapping[str, str], column: str) -> dict[str, bool]:
    """Read a column of survival events.

    Parameters
    ----------
    cells : mapping of slide id to str
        What the table says, such as ``1``, ``0``, "dead" or "censored", in any case.
    column : str
        Its name, for messages.

    Returns
    -------
    dict of slide id to bool
        True where the event was observed, False where the patient was censored.

    Raises
    ------
    ManifestError
        If a cell says neither.
    """
    found = {}
    for slide, text in cells.items():
        word = text.strip().casefold()
        if word not in SEEN | NOT_SEEN:
            raise ManifestError(
                f"column {column}",
                f"says '{text[:40]}' for slide '{slide}', which is neither an event nor none",
                "write 1 where the event was seen and 0 where the patient was lost from sight",
            )
        found[slide] = word in SEEN
    return found
