"""What the cells of a manifest mean: labels, splits, folds, µm/px; each checked by itself."""

from __future__ import annotations

import re

from pathology_scaat.cohort.retyped import refuse_rounded
from pathology_scaat.cohort.splits import SPLITS
from pathology_scaat.errors import ManifestError
from pathology_scaat.geometry import is_plausible_mpp
from pathology_scaat.system.names import normal_name

MAX_LABEL_CHARACTERS = 200

EMPTY_WORDS = {"", "na", "n/a", "nan", "none", "null", "<na>"}
"""What means "not given", without regard to case."""

_SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "tune": "val",
    "test": "test", "testing": "test", "holdout": "test", "held-out": "test",
}  # fmt: skip
_FOLD = re.compile(r"(?:fold)?[ _-]*([0-9]{1,3})(?:\.0+)?", re.IGNORECASE)


def is_empty_word(text: str) -> bool:
    """Whether a cell says that nothing is given."""
    return text.casefold() in EMPTY_WORDS


def is_split_word(text: str) -> bool:
    """Whether a cell names a split."""
    return text.casefold() in _SPLIT_WORDS


def _text_problem(text: str) -> str:
    """What is wrong with a name in a cell, in words; empty where nothing is."""
    if len(text) > MAX_LABEL_CHARACTERS:
        return f"has {len(text):,} characters, more than {MAX_LABEL_CHARACTERS}"
    hidden = next((c for c in text if not c.isprintable()), None)
    if hidden is None:
        return ""
    if hidden in "\n\r":
        return "goes over several lines"
    return f"holds a character that cannot be seen (U+{ord(hidden):04X})"


def label_cell(text: str, where: str) -> str | None:
    """A class name, normalised; None where the cell is empty.

    Raises
    ------
    ManifestError
        If it is too long, or holds what cannot be printed; ``where`` names the row.
    """
    if problem := _text_problem(text):
        problem = f"has an unusable label: it {problem}"
        raise ManifestError(where, problem, "give a short text as the label")
    return normal_name(text) or None


def patient_cell(text: str, where: str) -> str:
    """A patient's id, normalised; "" where the cell is empty.

    Raises
    ------
    ManifestError
        If it is too long, holds what cannot be printed, or a spreadsheet program has rounded it.
    """
    if problem := _text_problem(text):
        raise ManifestError(where, f"has an unusable patient_id: it {problem}", "give a short text")
    refuse_rounded(text, "patient_id", where)
    return normal_name(text)


def split_cell(text: str, where: str) -> str | None:
    """One of :data:`SPLITS`; None where the cell is empty.

    Raises
    ------
    ManifestError
        If it is another word.
    """
    if not text:
        return None
    word = _SPLIT_WORDS.get(text.casefold())
    if word is None:
        raise ManifestError(
            where,
            f"has the unknown split '{_shown(text)}'",
            f"use one of {', '.join(SPLITS)}; a column of folds is named fold",
        )
    return word


def fold_cell(text: str, where: str) -> int | None:
    """Number of a cross-validation fold (``3``, ``3.0``, ``fold_3``); None where empty.

    Raises
    ------
    ManifestError
        If it is no number.
    """
    if not text:
        return None
    found = _FOLD.fullmatch(text)
    if found is None:
        raise ManifestError(
            where,
            f"has the fold '{_shown(text)}', which is no number",
            "number the folds: 0, 1, 2, ...",
        )
    return int(found.group(1))


def mpp_cell(text: str, where: str) -> float | None:
    """µm per pixel; None where the cell is empty.

    Raises
    ------
    ManifestError
        If it is no number, or one that no slide has.
    """
    if not text:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = float("nan")
    if not is_plausible_mpp(value):
        raise ManifestError(
            where, f"has the impossible µm/px '{_shown(text)}'", "give e.g. 0.25, or leave it empty"
        )
    return value


def _shown(text: str) -> str:
    return text[:20] if text.isprintable() else "an unreadable text"
