"""Which class an annotated area counts for, and how the classes of files become one list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pathology_scaat.annotations.model import LabelledPolygon, is_ignored_class
from pathology_scaat.system.names import name_key, normal_name

SEPARATOR = ":"
"""Between the parts of QuPath's derived classes ("Tumor: Positive")."""


def base_class(class_name: str) -> str:
    """The class that a derived class belongs to ("Tumor" of "Tumor: Positive")."""
    return normal_name(class_name.split(SEPARATOR)[0])


def match_class(class_name: str, class_names: Sequence[str]) -> int | None:
    """Index of the asked-for class that a written class stands for, or None.

    Exact names first, then without regard to case, blanks and composition of letters, then
    the base of a derived class ("Tumor: Positive" counts for "Tumor").
    """
    if not class_name or is_ignored_class(class_name):
        return None
    if class_name in class_names:
        return list(class_names).index(class_name)
    keys = [name_key(name) for name in class_names]
    for candidate in (class_name, base_class(class_name)):
        key = name_key(candidate)
        if key and key in keys:
            return keys.index(key)
    return None


def class_of(polygon: LabelledPolygon, class_names: Sequence[str], may_name: bool) -> str:
    """The class of an area: the one written, or one that its name is, where nothing says more.

    ``may_name`` says that no area of the file has a class. Names are believed only where they
    are a class that was asked for.
    """
    if polygon.class_name or not may_name:
        return polygon.class_name
    name = normal_name(polygon.name)
    keys = {name_key(n) for n in class_names}
    return name if name and name_key(name) in keys else ""


def with_classes(
    polygons: Sequence[LabelledPolygon], class_names: Sequence[str]
) -> list[LabelledPolygon]:
    """The polygons that have a class, those included whose name is their class."""
    may_name = not any(p.class_name for p in polygons)
    found = []
    for polygon in polygons:
        written = class_of(polygon, class_names, may_name)
        if written == polygon.class_name:
            found.append(polygon)
        else:
            found.append(LabelledPolygon(written, polygon.geometry, polygon.name))
    return [p for p in found if p.class_name]


@dataclass(frozen=True)
class FoundClasses:
    """Class names without doubles, and what was done to come to them.

    Attributes
    ----------
    names : tuple of str
        Sorted; of several spellings the first one met.
    respelled : dict of str to str
        Spellings that were taken for another one.
    derived : dict of str to str
        Derived classes that count for their base.
    """

    names: tuple[str, ...]
    respelled: dict[str, str]
    derived: dict[str, str]


def merge_class_names(written: Iterable[str], labels: Iterable[str] = ()) -> FoundClasses:
    """One list of classes out of what annotations and slide labels say.

    Empty names and QuPath's ignored classes are no classes; spellings that differ in case,
    blanks or composition are one; derived classes fold into their base. Slide labels are
    taken as they are: a colon in them is no derivation.
    """
    kept: dict[str, str] = {}
    respelled: dict[str, str] = {}
    derived: dict[str, str] = {}

    def add(name: str) -> None:
        known = kept.setdefault(name_key(name), normal_name(name))
        if known != normal_name(name):
            respelled[normal_name(name)] = known

    for label in labels:
        if label.strip() and not is_ignored_class(label):
            add(label)
    for name in written:
        if not name.strip() or is_ignored_class(name):
            continue
        base = base_class(name)
        if name_key(name) in kept or not base or base == normal_name(name):
            add(name)
            continue
        add(base)
        derived[normal_name(name)] = kept[name_key(base)]
    return FoundClasses(tuple(sorted(kept.values())), respelled, derived)
