"""When two names are one: of slides, patients, classes, labels, settings and options."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

MIN_NEAR_CHARACTERS = 4
"""Words shorter than this differ by a letter on purpose (LUAD, LUSC are four; I, II are not)."""


def normal_name(text: str) -> str:
    """A name as it is kept: Unicode normal form C, one blank for each run of blanks, no rim."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def name_key(text: str) -> str:
    """What two spellings of one name have in common: case, blanks and composition do not count."""
    return unicodedata.normalize("NFC", normal_name(text).casefold())


def one_spelling(names: Iterable[str]) -> dict[str, str]:
    """The spelling that stands for each name, by :func:`name_key`: the first one met."""
    kept: dict[str, str] = {}
    for name in names:
        kept.setdefault(name_key(name), normal_name(name))
    return kept


def spelled_as(name: str, choices: Iterable[str]) -> str:
    """The choice that a name is, by :func:`name_key`; the name itself where it is none of them.

    Examples
    --------
    >>> spelled_as("tumor ", ["Normal", "Tumor"]), spelled_as("Stroma", ["Normal", "Tumor"])
    ('Tumor', 'Stroma')
    """
    if name in (listed := list(choices)):
        return name
    key = name_key(name)
    return next((choice for choice in listed if name_key(choice) == key), name)


def respelled(names: Iterable[str], kept: Mapping[str, str]) -> dict[str, int]:
    """How often each spelling that is not the kept one occurs, in order of appearance."""
    found: dict[str, int] = {}
    for name in names:
        if normal_name(name) != kept[name_key(name)]:
            found[name] = found.get(name, 0) + 1
    return found


def near_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that look like one name written in two ways ("Tumor", "Tumour").

    They have the same words but for one, and there one letter is added, left out or changed.
    Numbers and words of less than four letters tell names apart ("Grade 1", "Grade 2").
    """
    by_length = sorted(dict.fromkeys(names), key=lambda n: (len(n), n))
    pairs = []
    for index, one in enumerate(by_length):
        for other in by_length[index + 1 :]:
            if len(other) - len(one) > 1:
                break
            if _is_near(name_key(one), name_key(other)):
                pairs.append((one, other))
    return pairs


def _is_near(one: str, other: str) -> bool:
    words, others = one.split(), other.split()
    if len(words) != len(others):
        return False
    different = [(a, b) for a, b in zip(words, others, strict=True) if a != b]
    if len(different) != 1:
        return False
    a, b = different[0]
    long_enough = min(len(a), len(b)) > MIN_NEAR_CHARACTERS
    return long_enough and a.isalpha() and b.isalpha() and _one_letter_apart(a, b)


def _one_letter_apart(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    start = 0
    while start < len(short) and short[start] == long[start]:
        start += 1
    rest = long[start + 1 :]
    return rest == (short[start:] if len(long) > len(short) else short[start + 1 :])


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The choice that a mistyped name was probably meant to be, as a question; "" if none is."""
    by_key = {name_key(choice): choice for choice in choices}
    found = get_close_matches(name_key(name), list(by_key), n=1, cutoff=0.6)
    return f"did you mean '{by_key[found[0]]}'?" if found else ""


def shown_names(names: Iterable[str], limit: int = 6) -> str:
    """Some names in quotes for a message, and how many more there are."""
    listed = list(names)
    quoted = ", ".join(f"'{name[:60]}'" for name in listed[:limit])
    return quoted if len(listed) <= limit else f"{quoted} and {len(listed) - limit} more"
