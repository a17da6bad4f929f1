"""A polygon with a class, and how raw rings become valid polygons."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from pathology_scaat.annotations.limits import check_crossings, check_size, overlapping
from pathology_scaat.annotations.validity import made_valid
from pathology_scaat.errors import AnnotationError

log = logging.getLogger(__name__)

MAX_COORDINATE_PX = 1e8
"""No slide is larger; a coordinate beyond it is a damaged file."""

Area: TypeAlias = Polygon | MultiPolygon


@dataclass(frozen=True)
class LabelledPolygon:
    """An annotated area in level-0 pixels.

    Attributes
    ----------
    class_name : str
        As written in the file; "" where the annotation has no class. QuPath's derived
        classes are joined as QuPath shows them ("Tumor: Positive").
    geometry : shapely Polygon or MultiPolygon
        Valid and not empty.
    name : str
        The annotation's own name, "" where it has none.
    object_id : str
        Identifier of the object in a GeoJSON (a UUID where QuPath wrote it), "" where it has none.
    """

    class_name: str
    geometry: Area
    name: str = ""
    object_id: str = ""


@dataclass
class SkippedCounts:
    """What a reader left out while it read: shapes without an area, objects of other kinds."""

    n_without_area: int = 0
    n_not_annotations: dict[str, int] = field(default_factory=dict)

    def leave_out(self, kind: str) -> None:
        """Count an object that is no annotation."""
        self.n_not_annotations[kind] = self.n_not_annotations.get(kind, 0) + 1


def is_ignored_class(class_name: str) -> bool:
    """Whether QuPath treats a class as ignored (its name ends in ``*``)."""
    return class_name.rstrip().endswith("*")


def checked_points(values: Any, subject: str) -> NDArray[np.float64]:
    """(n, 2) float64 x, y in level-0 pixels from a list of positions; extra dimensions are dropped.

    No position at all gives (0, 2).

    Raises
    ------
    AnnotationError
        If a position is not a pair of finite numbers of a size that a slide can have.
    """
    try:
        points = np.asarray([(float(p[0]), float(p[1])) for p in values], dtype=np.float64)
    except (TypeError, ValueError, LookupError, OverflowError):
        raise AnnotationError(
            subject, "has a coordinate that is not a pair of numbers", "export the file again"
        ) from None
    points = points.reshape(-1, 2)
    if points.size and not (np.abs(points) <= MAX_COORDINATE_PX).all():
        raise AnnotationError(
            subject,
            "has a coordinate that no slide can have (not finite or beyond 100 million px)",
            "export the file again in pixels",
        )
    return points


def polygon_from_rings(
    rings: Sequence[NDArray[np.float64]], subject: str
) -> Polygon | MultiPolygon | None:
    """A valid area from an outer ring and hole rings, or None where no area is left.

    Rings are closed if they are open; crossing rings (bow-ties) are repaired into the areas
    they enclose.

    Parameters
    ----------
    rings : sequence of ndarray, (n, 2) float64
        x, y in level-0 pixels, of as many points as each ring has; the outer ring comes first.
    subject : str
        File or object that an error names.

    Raises
    ------
    AnnotationError
        If looking at it, or mending it and those before it in the file, would take too long.
    """
    drawn = drawn_polygon(rings, subject)
    return None if drawn is None else mended(drawn, subject)


def drawn_polygon(rings: Sequence[NDArray[np.float64]], subject: str) -> Polygon | None:
    """A polygon as it was drawn, perhaps crossing itself; None where there are too few points.

    Whether all of a file can be mended in reasonable time is known when every polygon has been
    here, long before the first is mended (:func:`mended`).

    Parameters
    ----------
    rings : sequence of ndarray, (n, 2) float64
        x, y in level-0 pixels; the outer ring, then holes. Holes of fewer than 3 points are left
        out.
    subject : str
        File or object that an error names.

    Raises
    ------
    AnnotationError
        If looking at it, or mending it and those before it in the file, would take too long.
    """
    if not rings or len(rings[0]) < 3:
        return None
    polygon = Polygon(rings[0], [ring for ring in rings[1:] if len(ring) >= 3])
    _check(polygon, subject)
    return polygon


def only_areas(geometry: Any, subject: str) -> Polygon | MultiPolygon | None:
    """The polygons of any shapely geometry, made valid; None where there are none."""
    _check(geometry, subject)
    return mended(geometry, subject)


def _check(geometry: Any, subject: str) -> None:
    check_size(geometry, subject)
    if not geometry.is_valid:
        check_crossings(geometry, subject)


def mended(geometry: Any, subject: str) -> Polygon | MultiPolygon | None:
    """The polygons, made valid, of a geometry that may be mended; None where there are none."""
    if not geometry.is_valid:
        log.info("%s: a self-crossing polygon was repaired", subject)
        geometry = made_valid(geometry)
    parts = [part for part in _flat(geometry) if isinstance(part, Polygon) and part.area > 0]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _flat(geometry: Any) -> Iterable[Any]:
    parts = shapely.get_parts(geometry)
    for part in parts:
        if part.geom_type.startswith("Multi") or part.geom_type == "GeometryCollection":
            yield from shapely.get_parts(part)
        else:
            yield part


def union_of(areas: Sequence[Area], subject: str) -> Area | None:
    """One valid area covering what any of several cover."""
    if not areas:
        return None
    overlapping(areas, subject)
    return only_areas(shapely.union_all(list(areas)), subject)


def ellipse_in_box(
    x_min: float, y_min: float, x_max: float, y_max: float, n: int = 128
) -> NDArray[np.float64]:
    """(n, 2) float64 x, y of points on the ellipse inscribed in a box, in the box's pixels.

    The points are of equal steps of the ellipse's parameter (eccentric anomaly), the first at the
    right end; the ring is left open.
    """
    angle = np.arange(n) * (2 * math.pi / n)
    return np.stack(
        [
            (x_min + x_max) / 2 + (x_max - x_min) / 2 * np.cos(angle),
            (y_min + y_max) / 2 + (y_max - y_min) / 2 * np.sin(angle),
        ],
        axis=1,
    )
