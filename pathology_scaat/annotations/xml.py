"""ASAP/CAMELYON XML, Aperio ImageScope XML and HALO's, which is called like Aperio's."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import shapely
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray

from pathology_scaat.annotations.model import (
    Area,
    LabelledPolygon,
    SkippedCounts,
    checked_points,
    ellipse_in_box,
    only_areas,
    polygon_from_rings,
    union_of,
)
from pathology_scaat.errors import AnnotationError
from pathology_scaat.system.names import normal_name

CAMELYON16_GROUPS = {"_0": "Tumor", "_1": "Tumor", "_2": "Normal"}
"""The CAMELYON16 rules: _0 and _1 are tumour, _2 is what was cut out of it as not tumour."""

_AREA_TYPES = {"polygon", "spline", "rectangle"}
_NO_GROUP = {"", "none"}
_RECTANGLE, _ELLIPSE = "1", "2"
_LINES = {"3", "4", "5", "ruler", "line", "arrow", "polyline", "pin", "point", "text"}
_TYPE_WORDS = {"polygon": "0", "freehand": "0", "rectangle": _RECTANGLE, "ellipse": _ELLIPSE}
"""HALO writes words where ImageScope writes numbers."""

_NAMELESS_LAYER = re.compile(r"(layer|annotation)( \d+)?", re.IGNORECASE)
"""What ImageScope and HALO call a layer that nobody has given a name."""


def parse_xml(
    raw: bytes, subject: str, skipped: SkippedCounts | None = None
) -> list[LabelledPolygon]:
    """Labelled polygons of an XML file; see :func:`read_annotations`.

    What is left out is counted in ``skipped``.

    Raises
    ------
    AnnotationError
        If it is no XML, of another kind, declares a DTD, or has an impossible coordinate.
    """
    left_out = skipped if skipped is not None else SkippedCounts()
    try:
        root = fromstring(raw, forbid_dtd=True)
    except DefusedXmlException:
        raise AnnotationError(
            subject, "declares XML entities or a DTD, which is refused", "remove the declaration"
        ) from None
    except ParseError as error:
        line, column = error.position
        raise AnnotationError(
            subject,
            f"is not valid XML (line {line}, column {column + 1})",
            "export the annotations again",
        ) from None
    except (ValueError, LookupError):
        raise AnnotationError(
            subject, "is in an unknown character encoding", "save it as UTF-8"
        ) from None
    if root.tag == "ASAP_Annotations":
        return _asap(root, subject, left_out)
    if root.tag == "Annotations":
        return _aperio(root, subject, left_out)
    raise AnnotationError(
        subject,
        "is XML of another kind",
        "give ASAP/CAMELYON XML (ASAP_Annotations), Aperio ImageScope or HALO XML (Annotations)",
    )


def _number(element: Element, key: str) -> str | None:
    value = element.get(key)
    # ASAP and ImageScope follow the locale of the machine: a decimal comma is a number too.
    return value.replace(",", ".") if value is not None and "." not in value else value


def _points(elements: list[Element], subject: str) -> NDArray[np.float64]:
    pairs: list[Any] = [(_number(e, "X"), _number(e, "Y")) for e in elements]
    return checked_points(pairs, subject)


def _asap(root: Element, subject: str, skipped: SkippedCounts) -> list[LabelledPolygon]:
    found = []
    groups = {a.get("PartOfGroup", "") for a in root.iter("Annotation")}
    camelyon16 = bool(groups) and groups <= {*CAMELYON16_GROUPS, "", "None"}
    for annotation in root.iter("Annotation"):
        if annotation.get("Type", "Polygon").lower() not in _AREA_TYPES:
            skipped.n_without_area += 1
            continue
        coordinates = annotation.findall("Coordinates/Coordinate")
        if all((c.get("Order") or "").isdecimal() for c in coordinates):
            coordinates.sort(key=lambda c: int((c.get("Order") or "0")[:12]))
        area = polygon_from_rings([_points(coordinates, subject)], subject)
        if area is None:
            skipped.n_without_area += 1
            continue
        group = normal_name(annotation.get("PartOfGroup", ""))
        class_name = "" if group.lower() in _NO_GROUP else group
        if camelyon16:
            class_name = CAMELYON16_GROUPS.get(class_name, class_name)
        found.append(LabelledPolygon(class_name, area, annotation.get("Name", "")))
    return found


def _aperio(root: Element, subject: str, skipped: SkippedCounts) -> list[LabelledPolygon]:
    """Layers with regions; regions marked negative are cut out of their layer's others.

    HALO's files have the same elements, but ``V`` for ``Vertex`` and words for types.
    """
    found: list[LabelledPolygon] = []
    for layer in root.iter("Annotation"):
        layer_name = _aperio_layer_name(layer)
        areas: list[tuple[Area, str]] = []
        holes: list[Area] = []
        for region in layer.findall("Regions/Region"):
            area = _aperio_area(region, subject)
            if area is None:
                skipped.n_without_area += 1
                continue
            if region.get("NegativeROA", "0") == "1":
                holes.append(area)
            else:
                areas.append((area, normal_name(region.get("Text", ""))))
        hole = union_of(holes, subject)
        for area, text in areas:
            kept = area if hole is None else only_areas(shapely.difference(area, hole), subject)
            if kept is not None:
                # A layer that nobody named says nothing; the text of its region may.
                nameless = not layer_name or _NAMELESS_LAYER.fullmatch(layer_name)
                found.append(LabelledPolygon((nameless and text) or layer_name, kept, text))
    return found


def _aperio_layer_name(layer: Element) -> str:
    """Name of a layer: its ``Name``, else its description attribute, else ""."""
    candidates = [layer.get("Name", "")]
    candidates += [
        attribute.get("Value", "") or attribute.get("Name", "")
        for attribute in layer.findall("Attributes/Attribute")
    ]
    placeholder = {"", "description"}
    return next((normal_name(c) for c in candidates if c.strip().lower() not in placeholder), "")


def _aperio_area(region: Element, subject: str) -> Area | None:
    kind = region.get("Type", "0").casefold()
    kind = _TYPE_WORDS.get(kind, kind)
    if kind in _LINES:
        return None
    vertices = region.findall("Vertices/Vertex") or region.findall("Vertices/V")
    points = _points(vertices, subject)
    if len(points) >= 2 and (kind == _ELLIPSE or (kind == _RECTANGLE and len(points) == 2)):
        (x_min, y_min), (x_max, y_max) = points.min(axis=0), points.max(axis=0)
        if kind == _ELLIPSE:
            points = ellipse_in_box(x_min, y_min, x_max, y_max)
        else:
            points = np.array([(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)])
    return polygon_from_rings([points], subject)
