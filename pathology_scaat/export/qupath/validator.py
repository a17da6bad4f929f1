"""Whether QuPath takes a GeoJSON file, judged as strictly as QuPath does.

QuPath refuses a whole file for one bad feature, some of them without a word. Each rule below
is something that QuPath 0.5 to 0.8 was seen to refuse, to change or to drop; files that this
package writes break none of them.
"""

from __future__ import annotations

import gzip
import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.errors import GEOSException
from shapely.geometry import Polygon

from pathology_scaat.errors import ExportError

OBJECT_TYPES = frozenset({"tile", "detection", "cell", "annotation", "tmaCore"})
MAX_ANNOTATIONS = 2000
"""QuPath resolves annotations in quadratic time: 3,000 take seconds, 100,000 never end."""
MAX_PROBLEMS = 50


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _load(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)


def _ring_problems(ring: Any, where: str) -> Iterator[str]:
    if not isinstance(ring, list) or len(ring) < 4:
        yield f"{where}: a ring needs at least four points"
        return
    for point in ring:
        numbers = isinstance(point, list) and len(point) == 2
        if not numbers or not all(_is_number(value) for value in point):
            yield f"{where}: a point is not two finite numbers"
            return
    if ring[0] != ring[-1]:
        yield f"{where}: a ring is not closed"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _polygon_problems(rings: Any, where: str) -> Iterator[str]:
    if not isinstance(rings, list) or not rings:
        yield f"{where}: a polygon has no ring"
        return
    broken = [text for ring in rings for text in _ring_problems(ring, where)]
    if broken:
        yield from broken
        return
    try:
        polygon = Polygon(rings[0], rings[1:])
        reduced = shapely.transform(polygon, lambda xy: np.round(xy, 2))
    except (GEOSException, ValueError):
        yield f"{where}: the coordinates make no polygon"
        return
    for shape, when in ((polygon, ""), (reduced, " after rounding to 0.01 px")):
        if not shape.is_valid:
            yield f"{where}: invalid{when} ({shapely.is_valid_reason(shape)})"
            return
    if reduced.area <= 0:
        yield f"{where}: has no area"


def _geometry_problems(geometry: Any, where: str, size: tuple[int, int] | None) -> Iterator[str]:
    if not isinstance(geometry, dict):
        yield f"{where}: has no geometry"
        return
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    polygons: list[Any]
    if kind == "Polygon":
        polygons = [coordinates]
    elif kind == "MultiPolygon" and isinstance(coordinates, list) and coordinates:
        polygons = coordinates
    else:
        yield f"{where}: geometry is {kind!r}, not Polygon or MultiPolygon"
        return
    found = [text for rings in polygons for text in _polygon_problems(rings, where)]
    yield from found
    if size is None or found:
        return
    for rings in polygons:
        points = np.array(rings[0], dtype=np.float64)
        if points.min() < 0 or points[:, 0].max() > size[0] or points[:, 1].max() > size[1]:
            yield f"{where}: reaches out of the image of {size[0]} x {size[1]} px"


def _colour_problems(colour: Any, where: str) -> Iterator[str]:
    whole = isinstance(colour, list) and len(colour) in (3, 4)
    if not whole or not all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in colour
    ):
        yield f"{where}: a colour is not three whole numbers from 0 to 255"


def _class_name_problems(name: Any, where: str) -> Iterator[str]:
    if not isinstance(name, str) or not name.strip() or "\n" in name or "\r" in name:
        yield f"{where}: a class name is empty or has a line break"


def _class_problems(value: Any, where: str, colours: dict[str, tuple[int, ...]]) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, str):
        yield from _class_name_problems(value, where)
        return
    if not isinstance(value, dict) or not ({"name", "names"} & value.keys()):
        yield f"{where}: a classification has no name"
        return
    names = value["names"] if "names" in value else [value["name"]]
    if not isinstance(names, list) or not names:
        yield f"{where}: 'names' is not a list of names"
        return
    found = [text for name in names for text in _class_name_problems(name, where)]
    if "color" not in value:
        found.append(f"{where}: a classification has no color")
    else:
        found.extend(_colour_problems(value["color"], where))
    yield from found
    if not found:
        key, colour = ": ".join(names), tuple(value["color"])
        if colours.setdefault(key, colour) != colour:
            yield f"{where}: class {key!r} has two colours"


def _measurement_problems(value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: measurements are not names with numbers"
        return
    for name, number in value.items():
        if not name.strip():
            yield f"{where}: a measurement has no name"
        if not _is_number(number):
            yield f"{where}: measurement {name!r} is not a finite number"


def _property_problems(
    properties: Any, where: str, colours: dict[str, tuple[int, ...]]
) -> Iterator[str]:
    if not isinstance(properties, dict):
        yield f"{where}: has no properties"
        return
    kind = properties.get("objectType")
    if kind not in OBJECT_TYPES:
        yield f"{where}: objectType is {kind!r}; QuPath would make it an annotation"
    if "name" in properties and not (isinstance(properties["name"], str) and properties["name"]):
        yield f"{where}: name is null or empty"
    if not isinstance(properties.get("isLocked", False), bool):
        yield f"{where}: isLocked is not true or false"
    if "color" in properties:
        yield from _colour_problems(properties["color"], where)
    yield from _class_problems(properties.get("classification"), where, colours)
    if "measurements" in properties:
        yield from _measurement_problems(properties["measurements"], where)
    metadata = properties.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        yield f"{where}: metadata is not names with texts"
    if kind == "tile" and {"name", "metadata"} & properties.keys():
        yield f"{where}: a tile with a name or metadata costs memory and is labelled"


def _id_problems(value: Any, where: str, seen: set[str]) -> Iterator[str]:
    try:
        if not isinstance(value, str):
            raise ValueError
        key = str(uuid.UUID(value))
    except ValueError:
        yield f"{where}: id is not a UUID"
        return
    if key in seen:
        yield f"{where}: id occurs twice"
    seen.add(key)


def _all_problems(value: Any, size: tuple[int, int] | None) -> Iterator[str]:
    if not isinstance(value, dict) or value.get("type") != "FeatureCollection":
        yield "is not a FeatureCollection"
        return
    features = value.get("features")
    if not isinstance(features, list):
        yield "has no list of features"
        return
    seen: set[str] = set()
    colours: dict[str, tuple[int, ...]] = {}
    n_annotations = 0
    for index, feature in enumerate(features):
        where = f"feature {index}"
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            yield f"{where}: is not a Feature"
            continue
        yield from _id_problems(feature.get("id"), where, seen)
        yield from _geometry_problems(feature.get("geometry"), where, size)
        properties = feature.get("properties")
        yield from _property_problems(properties, where, colours)
        if isinstance(properties, dict):
            n_annotations += properties.get("objectType") == "annotation"
    if n_annotations > MAX_ANNOTATIONS:
        yield f"{n_annotations} annotations are more than QuPath can resolve"


def geojson_problems(path: Path, size_px: tuple[int, int] | None = None) -> list[str]:
    """What QuPath would refuse, change or drop in a GeoJSON file; empty when all is well.

    Parameters
    ----------
    path : Path
        ``.geojson`` or ``.geojson.gz``.
    size_px : (int, int), optional
        Width and height of the image that is open; objects outside it are problems.

    Returns
    -------
    list of str
        At most 50 problems, in the order of the file.
    """
    try:
        value = _load(Path(path))
    except (OSError, EOFError, ValueError, RecursionError) as error:
        return [f"is not readable as JSON ({type(error).__name__})"]
    problems = []
    for text in _all_problems(value, size_px):
        problems.append(text)
        if len(problems) == MAX_PROBLEMS:
            break
    return problems


def validate_qupath_geojson(path: Path, size_px: tuple[int, int] | None = None) -> None:
    """Raise :class:`ExportError` with the first problem of :func:`geojson_problems`."""
    problems = geojson_problems(path, size_px)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise ExportError(
            Path(path).name, f"QuPath would refuse it: {problems[0]}{more}", "export it again"
        )
