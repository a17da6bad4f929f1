"""Names that a reader takes for one, though a program keeps them apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from pathology_scaat.system.names import name_key, near_names

YES_WORDS = frozenset({"1", "true", "t", "yes", "y", "positive", "pos", "+", "ja", "oui", "si"})
NO_WORDS = frozenset({"0", "false", "f", "no", "n", "negative", "neg", "-", "nein", "non"})
"""What tables of different programs say for the same answer."""

_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?")
_LATIN = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455"
    "\u03b1\u03b2\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7",
    "abekmhopctyxijsabeikvoptux",
)
"""Cyrillic and Greek letters, small, that look like Latin ones, large or small."""

_DASHES = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
_BETWEEN = re.compile(r"(?<=[^\W\d_])[-_ ./]+(?=[^\W_])|(?<=[^\W_])[-_ ./]+(?=[^\W\d_])")
"""What some write between two words, or word and number, and others leave out."""


def _number(name: str) -> str | None:
    if not _NUMBER.fullmatch(name.strip()):
        return None
    return repr(float(name.strip().replace(",", ".")))


def _answer(name: str) -> str | None:
    number = _number(name)
    word = number.removesuffix(".0") if number else name_key(name)
    return "yes" if word in YES_WORDS else "no" if word in NO_WORDS else None


def look_key(name: str) -> str:
    """What two names have in common that look alike: letters of other scripts, dashes, gaps."""
    plain = "".join(c for c in name if unicodedata.category(c) != "Cf")
    plain = _DASHES.sub("-", unicodedata.normalize("NFKC", plain)).casefold().translate(_LATIN)
    return _BETWEEN.sub("", " ".join(plain.split()))


_KINDS: tuple[tuple[Callable[[str], str | None], str], ...] = (
    (_number, "are one number"),
    (_answer, "are one answer"),
    (look_key, "look alike"),
)


def look_alikes(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Pairs of names that may be one, and why.

    Parameters
    ----------
    names : iterable of str
        Different names, as :func:`~pathology_scaat.system.names.one_spelling` leaves them.

    Returns
    -------
    list of (str, str, str)
        Two names and what they have in common, for a sentence about both. Of several names that
        are one, each is paired with the first.

    Examples
    --------
    >>> look_alikes(["1", "1.0", "TRUE", "0"])
    [('1', '1.0', 'are one number'), ('1', 'TRUE', 'are one answer')]
    >>> look_alikes(["Non-Tumor", "non tumor", "HER2+", "HER2-", "Grade 1", "Grade 2"])
    [('Non-Tumor', 'non tumor', 'look alike')]
    """
    listed = list(dict.fromkeys(names))
    found: dict[tuple[str, str], str] = {}
    told: set[str] = set()
    for key_of, why in _KINDS:
        first: dict[str, str] = {}
        for name in listed:
            key = key_of(name)
            if key is None:
                continue
            one = first.setdefault(key, name)
            if one != name and name not in told:
                found[one, name] = why
                told.add(name)
    for one, other in near_names(listed):
        found.setdefault((one, other), "differ by a letter")
    return [(one, other, why) for (one, other), why in found.items()]


def look_alike_notes(what: str, one_of_them: str, names: Sequence[str]) -> list[str]:
    """A sentence for each pair of names that may be one.

    Parameters
    ----------
    what, one_of_them : str
        What the names are of, in the plural, and one such thing.
    names : sequence of str
    """
    return [
        f"{what} '{one[:60]}' and '{other[:60]}' {why}: if they are one {one_of_them}, write them "
        "alike"
        for one, other, why in look_alikes(names)
    ]
