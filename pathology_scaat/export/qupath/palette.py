"""Names and colours of classes as QuPath knows them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

Colour = tuple[int, int, int]

QUPATH_COLOURS: dict[str, Colour] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Ignore*": (180, 180, 180),
}
"""QuPath's own default classes and their colours."""

SYNONYMS = {
    "tumor": "Tumor",
    "tumour": "Tumor",
    "stroma": "Stroma",
    "immune cells": "Immune cells",
    "immune": "Immune cells",
    "necrosis": "Necrosis",
    "ignore": "Ignore*",
    "ignore*": "Ignore*",
}

OTHER_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0),
    (240, 228, 66),
)  # fmt: skip
"""Okabe and Ito's colour-blind-safe set, for classes that QuPath has no colour for."""

HIGH_SALIENCY: tuple[tuple[str, str], Colour] = (("Saliency", "High"), (255, 200, 0))


@dataclass(frozen=True)
class QuPathClass:
    """A class as written into a GeoJSON: a name QuPath accepts and three integers of colour."""

    name: str
    colour: Colour


def qupath_name(class_name: str) -> str:
    """The name under which QuPath knows a class; its own spelling where it has one.

    QuPath refuses a whole file for an empty class name or one with a line break, so white
    space is made single spaces.
    """
    clean = " ".join(class_name.split()) or "Unnamed"
    return SYNONYMS.get(clean.casefold(), clean)


def qupath_class(class_name: str) -> QuPathClass:
    """Name and colour; a class unknown to QuPath has the same colour in every file."""
    name = qupath_name(class_name)
    colour = QUPATH_COLOURS.get(name)
    if colour is None:
        colour = OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]
    return QuPathClass(name, colour)


def qupath_classes(class_names: tuple[str, ...]) -> tuple[QuPathClass, ...]:
    """Classes of a model; names that would collide keep their own spelling and a number."""
    found: list[QuPathClass] = []
    for class_name in class_names:
        one = qupath_class(class_name)
        number = 2
        while one.name in {other.name for other in found}:
            one = QuPathClass(f"{qupath_name(class_name)} {number}", one.colour)
            number += 1
        found.append(one)
    return tuple(found)
