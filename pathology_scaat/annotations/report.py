"""What an annotation file holds, and what became of it on its slide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import shapely

from pathology_scaat.annotations.classes import class_of, match_class
from pathology_scaat.annotations.model import LabelledPolygon, is_ignored_class
from pathology_scaat.geometry import BoxPx
from pathology_scaat.system.names import normal_name, shown_names

MIN_INSIDE_SHARE = 0.9
"""An area with less of itself on the slide is reported: people draw over the edge by a little."""


@dataclass(frozen=True)
class AnnotationFile:
    """What a reader found in a file.

    Attributes
    ----------
    polygons : tuple of LabelledPolygon
        Areas in the order of the file, level-0 pixels.
    n_without_area : int
        Points, lines and empty shapes.
    n_not_annotations : mapping of str to int
        Objects that are no annotations (cells, tiles, TMA cores), by kind.
    """

    polygons: tuple[LabelledPolygon, ...]
    n_without_area: int = 0
    n_not_annotations: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names as written, in order of appearance; ignored and missing ones left out."""
        names = (p.class_name for p in self.polygons)
        return tuple(dict.fromkeys(n for n in names if n and not is_ignored_class(n)))

    @property
    def names_without_class(self) -> tuple[str, ...]:
        """Names of the areas of a file in which no area has a class; else none."""
        if any(p.class_name for p in self.polygons):
            return ()
        return tuple(dict.fromkeys(normal_name(p.name) for p in self.polygons if p.name.strip()))


@dataclass(frozen=True)
class AnnotationReport:
    """How many areas of an annotation file count for what, and how many for nothing.

    Attributes
    ----------
    n_areas : mapping of class name to int
        Areas on the slide, by the class asked for that they count for (0 where none does).
    n_named : mapping of class name to int
        Those of them whose class is written in the annotation's name or text only.
    n_outside, n_partly_outside : int
        Areas of the classes asked for that lie off the slide, or reach far beyond its edge.
    n_above : int
        Those of the ones outside that would be on the slide if y were read upwards.
    n_without_class : int
        Areas without a class.
    n_other_classes : mapping of class name to int
        Areas of classes that were not asked for.
    n_ignored : int
        Areas of QuPath's ignored classes (``Ignore*``).
    n_without_area : int
        Points, lines and empty shapes.
    n_not_annotations : mapping of str to int
        Cells, tiles, TMA cores..., by kind.
    names_without_class : tuple of str
        Names of the areas where no area of the file has a class.
    """

    n_areas: Mapping[str, int]
    n_named: Mapping[str, int] = field(default_factory=dict)
    n_outside: int = 0
    n_partly_outside: int = 0
    n_above: int = 0
    n_without_class: int = 0
    n_other_classes: Mapping[str, int] = field(default_factory=dict)
    n_ignored: int = 0
    n_without_area: int = 0
    n_not_annotations: Mapping[str, int] = field(default_factory=dict)
    names_without_class: tuple[str, ...] = ()

    @property
    def n_used(self) -> int:
        """Areas that count for a class that was asked for and lie on the slide."""
        return sum(self.n_areas.values())

    def notes(self) -> tuple[str, ...]:
        """One sentence for each way in which areas were left out or read with a choice."""
        said = []
        if self.n_outside:
            text = f"{_areas(self.n_outside)} outside the slide"
            if self.n_above:
                text += f" ({self.n_above} above its upper edge: is y drawn upwards?)"
            elif not self.n_used:
                text += " (are these another slide's annotations?)"
            said.append(text)
        if self.n_partly_outside:
            said.append(f"{_areas(self.n_partly_outside)} partly outside the slide")
        if self.n_without_class:
            text = f"{_areas(self.n_without_class)} without a class left out"
            if self.names_without_class:
                text += f" (named {shown_names(self.names_without_class, 4)}; set their class)"
            said.append(text)
        for name, count in self.n_named.items():
            said.append(
                f"{_areas(count)} without a class counted as '{name}', which is written "
                "in the annotation's name"
            )
        if self.n_other_classes:
            shown = ", ".join(f"'{n[:60]}' {c}" for n, c in list(self.n_other_classes.items())[:6])
            more = len(self.n_other_classes) - 6
            also = f" and {more} more classes" if more > 0 else ""
            said.append(f"areas of classes not asked for left out: {shown}{also}")
        if self.n_ignored:
            said.append(f"{_areas(self.n_ignored)} of an ignored class")
        if self.n_without_area:
            noun = "annotation" if self.n_without_area == 1 else "annotations"
            said.append(f"{self.n_without_area} {noun} without an area (points, lines) left out")
        if self.n_not_annotations:
            kinds = ", ".join(f"{c} {k}" for k, c in self.n_not_annotations.items())
            said.append(f"objects that are no annotations left out: {kinds}")
        return tuple(said)


def _areas(count: int) -> str:
    return f"{count} annotated {'area' if count == 1 else 'areas'}"


def report_on(
    file: AnnotationFile, class_names: Sequence[str], frame_px: BoxPx
) -> AnnotationReport:
    """Count what the areas of a file count for on its slide.

    Parameters
    ----------
    file : AnnotationFile
        What was read.
    class_names : sequence of str
        Classes asked for.
    frame_px : BoxPx
        The part of the slide that has pixels, level-0 px.
    """
    frame = shapely.box(frame_px.x, frame_px.y, frame_px.right, frame_px.bottom)
    mirrored = shapely.box(frame_px.x, -frame_px.bottom, frame_px.right, -frame_px.y)
    n_areas = Counter(dict.fromkeys(class_names, 0))
    named: Counter[str] = Counter()
    other: Counter[str] = Counter()
    without_class = ignored = outside = partly = above = 0
    may_name = not any(p.class_name for p in file.polygons)
    for polygon in file.polygons:
        written = class_of(polygon, class_names, may_name)
        if not written:
            without_class += 1
            continue
        if is_ignored_class(written):
            ignored += 1
            continue
        owner = match_class(written, class_names)
        if owner is None:
            other[written] += 1
            continue
        inside = shapely.intersection(polygon.geometry, frame).area
        if inside <= 0:
            outside += 1
            above += bool(shapely.intersects(polygon.geometry, mirrored) and frame_px.y >= 0)
            continue
        partly += inside < MIN_INSIDE_SHARE * polygon.geometry.area
        n_areas[class_names[owner]] += 1
        if written != polygon.class_name:
            named[class_names[owner]] += 1
    return AnnotationReport(
        n_areas=dict(n_areas),
        n_named=dict(named),
        n_outside=outside,
        n_partly_outside=partly,
        n_above=above,
        n_without_class=without_class,
        n_other_classes=dict(other),
        n_ignored=ignored,
        n_without_area=file.n_without_area,
        n_not_annotations=dict(file.n_not_annotations),
        names_without_class=file.names_without_class if without_class else (),
    )
