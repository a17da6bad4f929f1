"""The class that saliency speaks of, where nobody has said which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pathology_scaat.errors import TrainingError
from pathology_scaat.system.names import did_you_mean, name_key, shown_names

DISEASE_WORDS = frozenset(
    {
        "tumor", "tumour", "tumors", "tumours", "tumoral", "tumorous", "neoplasm", "neoplasia",
        "neoplastic", "cancer", "cancerous", "carcinoma", "adenocarcinoma", "sarcoma", "melanoma",
        "lymphoma", "glioma", "malignant", "malignancy", "metastasis", "metastases", "metastatic",
        "adenoma", "lesion", "metaplasia", "dysplasia", "dysplastic", "invasive", "diseased",
        "disease", "positive",
    }
)  # fmt: skip
"""Whole words, so that "peritumoral" is none of them."""

HEALTHY_WORDS = frozenset(
    {"normal", "benign", "healthy", "negative", "background", "other", "control", "nontumor",
     "nontumour", "tissue", "stroma", "necrosis"}
)  # fmt: skip
"""Words of classes that saliency is hardly ever asked about."""

_NEGATIONS = frozenset(
    {"no", "non", "not", "without", "free", "negative", "normal", "benign", "healthy", "adjacent",
     "associated", "near", "surrounding", "stroma", "peri", "pre", "anti", "excluding"}
)  # fmt: skip
"""Words beside a disease word that turn the name into something else."""


_NOTHING_WORDS = frozenset({"normal", "benign", "healthy", "negative", "nontumor", "nontumour"})
"""Words of a class of slides that show none of the others."""

_PLAIN_DENIALS = frozenset({"no", "non", "not", "without", "free"})


@dataclass(frozen=True)
class PositiveClass:
    """A choice, and the sentence that states it."""

    name: str
    note: str


def choose_positive_class(
    class_names: Sequence[str], option: str = "--positive-class"
) -> PositiveClass:
    """The class whose name speaks of disease; of several the plainest name.

    A name that is a disease word beats one that contains such a word; words count as wholes,
    and names that deny it ("cancer-free", "tumor-associated stroma") do not count. Where names
    do not decide, the first candidate is taken (the last class, if there is none), and the
    note says that it is a guess, and by which ``option`` one is chosen.
    """
    plain = [name for name in class_names if name_key(name) in DISEASE_WORDS]
    said = plain or [name for name in class_names if _speaks_of_disease(name)]
    if len(said) == 1:
        return PositiveClass(said[0], f"saliency speaks of class '{said[0]}', by its name")
    candidates = said or [n for n in class_names if not _words(n) & HEALTHY_WORDS]
    if not said and len(candidates) == 1:
        return PositiveClass(
            candidates[0], f"saliency speaks of class '{candidates[0]}', by the others' names"
        )
    chosen = candidates[0] if said else (candidates or list(class_names))[-1]
    others = shown_names(n for n in (candidates or class_names) if n != chosen)
    beside = f", and could as well speak of {others}" if others else ""
    return PositiveClass(
        chosen,
        f"saliency speaks of class '{chosen}'{beside}: the names do not say which is meant; "
        f"choose with {option}",
    )


def positive_class(
    asked: str | None, class_names: Sequence[str], option: str = "--positive-class"
) -> PositiveClass:
    """The class asked for, in the spelling of the classes, or the one chosen by name.

    Raises
    ------
    TrainingError
        If the class asked for is none of the classes.
    """
    if asked is None:
        return choose_positive_class(class_names, option)
    for name in class_names:
        if name_key(name) == name_key(asked):
            return PositiveClass(name, f"saliency speaks of class '{name}'")
    meant = did_you_mean(asked, class_names)
    raise TrainingError(
        option,
        f"'{asked}' is no class",
        f"{meant} choose from {', '.join(class_names)}".strip(),
    )


def shows_nothing(class_name: str, class_names: Sequence[str]) -> bool:
    """Whether the label of such a slide is right for every one of its patches, for certain.

    It is where the class is the absence of all others: its name says so and nothing else
    ("normal", "no tumour"), and the name of each other class speaks of disease. A slide labelled
    "stroma" may hold anything beside; one labelled "normal" may hold stroma where that is a class.
    Which class saliency speaks of does not decide: two diseases are told apart too.

    Examples
    --------
    >>> shows_nothing("Normal", ("Normal", "Tumor"))
    True
    >>> shows_nothing("Normal", ("Normal", "Stroma", "Tumor"))
    False
    """
    words = _words(class_name) - {"tissue"}
    denied = len(words & DISEASE_WORDS) == len(words & _PLAIN_DENIALS) == 1 and len(words) == 2
    if not denied and not (len(words) == 1 and words <= _NOTHING_WORDS):
        return False
    others = [name for name in class_names if name_key(name) != name_key(class_name)]
    return bool(others) and all(_speaks_of_disease(name) for name in others)


def doubtful_label(copied: str | None, class_names: Sequence[str]) -> bool:
    """Whether a label that was copied from a slide (None: it was not) may be wrong for a patch."""
    return copied is not None and not shows_nothing(copied, class_names)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", name_key(name)))


def _speaks_of_disease(name: str) -> bool:
    words = _words(name)
    return bool(words & DISEASE_WORDS) and not words & (_NEGATIONS - DISEASE_WORDS)
