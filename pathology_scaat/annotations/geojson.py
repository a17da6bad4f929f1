"""QuPath GeoJSON in all the shapes that QuPath and its friends write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from pathology_scaat.annotations.model import (
    Area,
    LabelledPolygon,
    SkippedCounts,
    checked_points,
    drawn_polygon,
    mended,
    union_of,
)
from pathology_scaat.errors import AnnotationError
from pathology_scaat.system.names import normal_name

_NOT_ANNOTATIONS = {
    "tile": "tiles",
    "detection": "detections",
    "cell": "cells",
    "tmacore": "TMA cores",
    "root": "image roots",
}
"""Kinds of QuPath's objects that are no annotations, and how a message calls them."""

_LEGACY_IDS = {
    "PathTileObject": "tile",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "TMACoreObject": "tmacore",
    "PathTMACoreObject": "tmacore",
    "PathRootObject": "root",
}
"""What QuPath up to 0.2 wrote as the id of a feature, in place of ``objectType``."""

_GEOMETRIES = {
    "Polygon", "MultiPolygon", "GeometryCollection",
    "Point", "MultiPoint", "LineString", "MultiLineString",
}  # fmt: skip
_MAX_CLASS_CHARACTERS = 200
_AGAIN = "export the annotations again"


def parse_geojson(
    text: str,
    subject: str,
    offset_px: tuple[float, float] = (0.0, 0.0),
    skipped: SkippedCounts | None = None,
) -> list[LabelledPolygon]:
    """Labelled polygons of a GeoJSON text; see :func:`read_annotations`.

    ``offset_px`` (x, y in level-0 pixels) is added to every position; what is left out is counted
    in ``skipped``.

    Raises
    ------
    AnnotationError
        If it is no GeoJSON, has an impossible coordinate, holds detections or tiles alone, or would
        take too long to mend.
    """
    left_out = skipped if skipped is not None else SkippedCounts()
    root = _loaded(text, subject)
    drawn: list[tuple[dict[str, Any], Any, list[Polygon]]] = []
    n_skipped = n_objects = 0
    for feature in _features(root, subject):
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        n_objects += 1
        kind = _NOT_ANNOTATIONS.get(_object_type(feature, properties))
        if kind is not None:
            n_skipped += 1
            left_out.leave_out(kind)
            continue
        polygons = _polygons(feature.get("geometry"), subject, np.asarray(offset_px, np.float64))
        drawn.append((properties, feature.get("id"), polygons))
    if n_skipped and n_skipped == n_objects:
        raise AnnotationError(
            subject,
            f"holds {n_skipped} detections or tiles and no annotation",
            "export the annotations from QuPath (File > Export objects as GeoJSON)",
        )
    # Only now, when all have been counted: what takes too long is refused before it is begun.
    found: list[LabelledPolygon] = []
    for properties, identity, polygons in drawn:
        area = _area(polygons, subject)
        if area is None:
            left_out.n_without_area += 1
            continue
        name = properties.get("name")
        found.append(
            LabelledPolygon(
                _class_name(properties, subject),
                area,
                name if isinstance(name, str) else "",
                identity if isinstance(identity, str) else "",
            )
        )
    return found


def _object_type(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Kind of a QuPath object in one spelling; "annotation" where the file does not say."""
    kind = properties.get("objectType", properties.get("object_type"))
    if kind is None:
        # Newer ids are UUIDs, so that no annotation has one of these by chance.
        identity = feature.get("id")
        return _LEGACY_IDS.get(identity, "annotation") if isinstance(identity, str) else ""
    return kind.casefold().replace("_", "").replace(" ", "") if isinstance(kind, str) else ""


def _loaded(text: str, subject: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise AnnotationError(subject, "is nested too deeply to be GeoJSON", _AGAIN) from None
    except json.JSONDecodeError as error:
        cut = text.rstrip()[-1:] not in ("}", "]")
        what = "ends in the middle (truncated)" if cut else "is not valid JSON"
        raise AnnotationError(
            subject, f"{what}, line {error.lineno} column {error.colno}", _AGAIN
        ) from None
    except ValueError:
        raise AnnotationError(subject, "has a number of absurd length", _AGAIN) from None


def _features(root: Any, subject: str) -> Iterator[dict[str, Any]]:
    """Every feature, in order; children of hierarchies follow their parent."""
    stack = [root]
    first = True
    while stack:
        item = stack.pop()
        if isinstance(item, list) and first:
            stack.extend(reversed(item))
            first = False
            continue
        first = False
        if not isinstance(item, dict):
            raise AnnotationError(subject, "holds something that is no GeoJSON object", _AGAIN)
        kind = item.get("type")
        if kind == "FeatureCollection":
            features = item.get("features")
            if not isinstance(features, list):
                raise AnnotationError(subject, "has no list of features", _AGAIN)
            stack.extend(reversed(features))
        elif kind == "Feature":
            yield item
            properties = item.get("properties")
            children = properties.get("childObjects") if isinstance(properties, dict) else None
            if isinstance(children, list):
                stack.extend(reversed(children))
        elif isinstance(kind, str) and kind in _GEOMETRIES:
            yield {"geometry": item}
        else:
            raise AnnotationError(
                subject, "is JSON, but not GeoJSON", "export the annotations as GeoJSON"
            )


def _polygons(geometry: Any, subject: str, offset: NDArray[np.float64]) -> list[Polygon]:
    """The polygons of a geometry as they were drawn."""
    found: list[Polygon] = []
    stack = [geometry]
    while stack:
        item = stack.pop()
        if item is None:
            continue
        kind = item.get("type") if isinstance(item, dict) else None
        if not isinstance(kind, str) or kind not in _GEOMETRIES:
            raise AnnotationError(subject, "has a geometry of no known type", _AGAIN)
        if kind == "GeometryCollection":
            stack.extend(_as_list(item.get("geometries"), subject))
            continue
        if kind not in ("Polygon", "MultiPolygon"):
            continue
        coordinates = _as_list(item.get("coordinates"), subject)
        for polygon in [coordinates] if kind == "Polygon" else coordinates:
            rings = [
                checked_points(_as_list(ring, subject), subject) + offset
                for ring in _as_list(polygon, subject)
            ]
            polygon = drawn_polygon(rings, subject)
            if polygon is not None:
                found.append(polygon)
    return found


def _area(polygons: list[Polygon], subject: str) -> Area | None:
    """What some polygons cover; None where that is nothing."""
    areas = [area for one in polygons if (area := mended(one, subject)) is not None]
    return areas[0] if len(areas) == 1 else union_of(areas, subject)


def _as_list(value: Any, subject: str) -> list[Any]:
    if not isinstance(value, list):
        raise AnnotationError(subject, "has a geometry without coordinates", _AGAIN)
    return value


def _class_name(properties: dict[str, Any], subject: str) -> str:
    """Class of an object: QuPath's ``classification``, or the ``class``/``label`` of others."""
    value: Any = None
    for key in ("classification", "class", "label"):
        value = properties.get(key)
        if value is not None:
            break
    if isinstance(value, dict):
        names = value.get("names")
        value = names if isinstance(names, list) and names else value.get("name")
    if isinstance(value, list):
        value = ": ".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str):
        return ""
    name = normal_name(value)
    if len(name) > _MAX_CLASS_CHARACTERS:
        raise AnnotationError(
            subject, f"has a class name of {len(name)} characters", "give the class a short name"
        )
    return name


def count_lines_and_points(text: str, subject: str) -> tuple[int, int]:
    """Annotations of a GeoJSON text that have a class but are lines, or points: no area.

    Raises
    ------
    AnnotationError
        If it is no GeoJSON.
    """
    lines = points = 0
    for feature in _features(_loaded(text, subject), subject):
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        kind = properties.get("objectType", properties.get("object_type", "annotation"))
        if isinstance(kind, str) and kind.lower() in _NOT_ANNOTATIONS:
            continue
        geometry = feature.get("geometry")
        shape = str(geometry.get("type")) if isinstance(geometry, dict) else ""
        if shape.endswith(("Point", "LineString")) and _class_name(properties, subject):
            lines += shape.endswith("LineString")
            points += shape.endswith("Point")
    return lines, points
