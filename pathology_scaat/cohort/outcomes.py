"""Columns of a cohort's table that say what became of a patient: a time, and whether an event."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from pathology_scaat.errors import ManifestError

SEEN = {"1", "1.0", "true", "yes", "event", "dead", "deceased", "1:deceased"}
NOT_SEEN = {"0", "0.0", "false", "no", "censored", "alive", "living", "0:living"}
"""What a cell of the event may say, without regard to case."""


_WORDS_OF_LIFE = re.compile(r"censor|alive|living|surviv(?!al)|lost|event_?free|(?<![a-z])no_")
"""In the name of a column of which 1 says, as a rule, that the event was *not* seen."""

_PLAIN = {"1", "1.0", "true", "yes", "0", "0.0", "false", "no"}
"""Cells whose meaning is the column's name."""


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
        If a cell says neither, or 1 and 0 stand in a column named after those who had no event.
    """
    plain = {text.strip() for text in cells.values() if text.strip().casefold() in _PLAIN}
    if plain and _WORDS_OF_LIFE.search(column.casefold().replace(" ", "_")):
        raise ManifestError(
            f"column {column}",
            f"says '{min(plain)[:40]}', and by its name that may mean that the event was not seen",
            "write 'event' and 'censored' into its cells, or name a column in which 1 is an event",
        )
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
