"""Texts as cells of a table that people open in a spreadsheet program.

``slides.csv``, ``predictions.csv`` and the other tables hold names and sentences that came from
files; a spreadsheet program must not take one of them for a formula.
"""

from __future__ import annotations

import math
import numbers
import unicodedata

MAX_TEXT = 500
"""Characters after which a cell is cut."""

_FORMULA_START = ("=", "+", "-", "@")


def safe_cell(value: object, most: int = MAX_TEXT) -> str:
    """A value as one line of text that no spreadsheet takes for a formula.

    Numbers keep their shortest exact spelling; line breaks and control characters become spaces; a
    text that begins with ``= + - @`` gets an apostrophe before it (OWASP, CSV injection). A text of
    more than ``most`` characters is cut.
    """
    if value is None:
        return ""
    is_truth = isinstance(value, bool)
    if isinstance(value, numbers.Real) and not is_truth:  # numpy's too
        return str(value) if math.isfinite(value) else ""
    spaced = "".join(" " if unicodedata.category(c) in {"Cc", "Cs"} else c for c in str(value))
    text = " ".join(spaced.split())
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    return f"'{text}" if text.startswith(_FORMULA_START) else text


def from_cell(cell: str) -> str:
    """A text as it was before :func:`safe_cell` put an apostrophe before it.

    Examples
    --------
    >>> from_cell(safe_cell("+")), from_cell("'tis")
    ('+', "'tis")
    """
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA_START) else cell


def id_cell(slide_id: str) -> str:
    """A slide's id as a cell: as :func:`safe_cell`, but with its blanks as they are.

    Two ids may differ by a blank alone; each has its own row.
    """
    shown = safe_cell(slide_id)
    spaced = "".join(" " if unicodedata.category(c) in {"Cc", "Cs"} else c for c in str(slide_id))
    return spaced if " ".join(spaced.split()) == shown and spaced == spaced.strip() else shown
