"""A model's classes as QuPath takes them: names that it accepts, colours that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pathology_scaat.training.class_colours import Colour, alike, class_colours, qupath_name

__all__ = [
    "REGION_CLASSES",
    "REGION_COLOUR",
    "UNLIKE_TRAINING",
    "QuPathClass",
    "alike_notes",
    "qupath_class",
    "qupath_classes",
    "qupath_name",
    "region_names",
]

REGION_COLOUR: Colour = (255, 200, 0)


def region_names(drawn: str) -> tuple[str, str]:
    """Name and class of regions that were cut from a map of this kind: evidence, or saliency."""
    return f"High {drawn}", f"{drawn.capitalize()}: High"


REGION_CLASSES = frozenset(region_names(drawn)[1] for drawn in ("evidence", "saliency"))
"""Classes that regions of the exports have; those cut from evidence had that of saliency before."""


@dataclass(frozen=True)
class QuPathClass:
    """A class as written into a GeoJSON: a name QuPath accepts and three integers of colour."""

    name: str
    colour: Colour


UNLIKE_TRAINING = QuPathClass("Unlike training", (128, 128, 128))
"""Class of tiles that the model cannot judge, whatever class it finds the most probable."""


LEARNT_NOTHING = QuPathClass("Model has learnt nothing", (160, 160, 160))
"""Class of every tile of a model whose classes mean nothing; no region is there to say it."""


CONTRIBUTES_LITTLE = QuPathClass("Contributes little", (200, 200, 200))
"""Class of tiles that hardly move what a model of whole slides says of the slide."""


def qupath_class(class_name: str) -> QuPathClass:
    """Name and colour of a class that stands alone."""
    return qupath_classes((class_name,))[0]


def qupath_classes(
    class_names: tuple[str, ...], colours: Mapping[str, Colour] | None = None
) -> tuple[QuPathClass, ...]:
    """Classes of a model; names that would collide keep their own spelling and a number.

    Parameters
    ----------
    class_names : tuple of str
        In the model's order.
    colours : mapping of class name to colour, optional
        As the model's bundle keeps them; without them they are made anew, the same.
    """
    made = class_colours(class_names)
    if colours is not None and set(class_names) <= set(colours):
        made = tuple(colours[name] for name in class_names)
    found: list[QuPathClass] = []
    for class_name, colour in zip(class_names, made, strict=True):
        name, number = qupath_name(class_name), 2
        while name in {other.name for other in found}:
            name = f"{qupath_name(class_name)} {number}"
            number += 1
        found.append(QuPathClass(name, colour))
    return tuple(found)


def alike_notes(classes: tuple[QuPathClass, ...]) -> tuple[str, ...]:
    """What to say where there are more classes than colours that differ enough."""
    pairs = alike(tuple(c.name for c in classes), [c.colour for c in classes])
    if not pairs:
        return ()
    return (
        f"{len(pairs)} pairs of classes look alike in QuPath ({pairs[0][1]} and {pairs[0][0]}, "
        f"for one): {len(classes)} classes are more than colours can tell apart",
    )
