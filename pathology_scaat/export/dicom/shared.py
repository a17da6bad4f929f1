"""What all DICOM objects of a slide share: identifiers, times, who made them, where they lie."""

from __future__ import annotations

import uuid
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathology_scaat.export.dicom.source import need_highdicom
from pathology_scaat.export.qupath.geojson import NAMESPACE
from pathology_scaat.stitching.slide_map import SlideMap

SCHEME = "99SCAAT"
"""Coding scheme of what no public scheme has a code for."""
ACQUISITION_EQUIPMENT = "109101"
MANUFACTURER = "pathology_scaat"
UTF8 = "ISO_IR 192"
MAX_MAP_PX = 4096
TILE_PX = 256

_SHORT = 64
_LONG = 10_000


def uid(*parts: str) -> str:
    """An identifier made of what the parts say: the same input, the same identifier."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(parts)).int}"


def with_fixed_date(dataset: Any, source: Any) -> Any:
    """Replace the time of writing by the slide's own: same input, same bytes.

    Of the equipment only what wrote the object is named: the scanner's maker and number say
    where a slide is from.
    """
    dataset.ContributingEquipmentSequence = [
        item
        for item in dataset.get("ContributingEquipmentSequence", ())
        if item.PurposeOfReferenceCodeSequence[0].CodeValue != ACQUISITION_EQUIPMENT
    ]
    dataset.SpecificCharacterSet = UTF8  # names of classes may be in any script
    date, time = slide_time(source)
    for name, value in (
        ("ContentDate", date), ("ContentTime", time), ("SeriesDate", date), ("SeriesTime", time),
        ("InstanceCreationDate", date), ("InstanceCreationTime", time),
    ):  # fmt: skip
        if name in dataset:
            setattr(dataset, name, value)
    for item in dataset.iterall():
        if item.keyword == "DimensionOrganizationUID":
            item.value = uid(dataset.SOPInstanceUID, "dimensions")
        if item.keyword in _DATE_TIMES and item.value:
            item.value = f"{date}{time}"
    return dataset


_DATE_TIMES = frozenset(("ContributionDateTime", "AcquisitionDateTime", "ObservationDateTime"))


def slide_time(source: Any) -> tuple[str, str]:
    """Date and time of the slide, as DICOM writes them; a fixed one where it has none."""
    date = source.get("ContentDate") or source.get("StudyDate") or "19000101"
    time = source.get("ContentTime") or source.get("StudyTime") or "000000"
    return str(date), str(time)


def common(slide_map: SlideMap, kind: str, number: int, *more: str) -> dict[str, Any]:
    """Arguments that every object takes; ``more`` is what it is made of beside the map."""
    key = slide_map.meta.fingerprint
    return {
        "series_instance_uid": uid(key, kind, "series"),
        "series_number": number,
        "sop_instance_uid": uid(key, kind, "instance", *more),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MANUFACTURER,
        "software_versions": metadata.version("pathology-scaat"),
        "device_serial_number": "none",
    }


def algorithm(slide_map: SlideMap) -> Any:
    """Which program, explanation and model made the values."""
    hd = need_highdicom()
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentificationSequence(
        name=f"pathology_scaat {slide_map.meta.method}",
        version=slide_map.meta.model_fingerprint[:16],
        family=codes.cid7162.ArtificialIntelligence,
    )


def add_facts(dataset: Any, facts: dict[str, str]) -> None:
    """Write what is known of model and map into the object, its warning first."""
    dataset.ContentDescription = description(facts)
    lines = [f"{name}: {text}" for name, text in facts.items()]
    dataset.ImageComments = "\n".join(sorted(lines, key=lambda line: "WARNING" not in line))[:_LONG]


def description(facts: dict[str, str]) -> str:
    """What a list of objects shows: the warning where there is one."""
    warned = next((text for name, text in facts.items() if name.upper() == "WARNING"), "")
    return (warned or "Saliency of a model; research use; no diagnosis")[:_SHORT]


def plane_orientation(source: Any) -> tuple[float, ...]:
    """Direction cosines of the slide's rows and columns."""
    return tuple(float(v) for v in source.ImageOrientationSlide)


def pixel_spacing_mm(source: Any) -> tuple[float, float]:
    """Height and width of a level-0 pixel in the slide's own frame of reference, mm.

    Viewers lay an object over its slide by this frame. What a user gives for the slide's µm/px
    changes sizes that are told, and not where the slide's pixels lie in it.
    """
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    down, across = measures.PixelSpacing
    return float(down), float(across)


def slide_points(source: Any, points_px: ArrayLike) -> NDArray[np.float64]:
    """Places on the slide, (N, 3) in mm of its frame of reference, of level-0 pixels (N, 2).

    (0, 0) is the outer corner of the first pixel, which lies at the slide's origin: all levels of
    a slide share that origin, so that it can be no pixel's centre.
    """
    origin = source.TotalPixelMatrixOriginSequence[0]
    start = np.array(
        [
            float(origin.XOffsetInSlideCoordinateSystem),
            float(origin.YOffsetInSlideCoordinateSystem),
            float(origin.get("ZOffsetInSlideCoordinateSystem", 0.0) or 0.0),
        ]
    )
    cosines = np.array(plane_orientation(source))
    xy_mm = np.asarray(points_px, np.float64).reshape(-1, 2) * pixel_spacing_mm(source)[::-1]
    points_mm: NDArray[np.float64] = start + xy_mm[:, :1] * cosines[:3] + xy_mm[:, 1:] * cosines[3:]
    return points_mm


def map_geometry(slide_map: SlideMap, source: Any, level: int) -> dict[str, Any]:
    """Position, orientation and spacing of a map level as image objects take them."""
    hd = need_highdicom()
    box = slide_map.frame_px
    x, y, z = slide_points(source, [(box.x, box.y)])[0].tolist()
    down, across = (mm * slide_map.scale_px * 2**level for mm in pixel_spacing_mm(source))
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return {
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=(down, across),
            slice_thickness=float(measures.get("SliceThickness", 0.0)),
        ),
        "plane_positions": [
            hd.PlanePositionSequence(
                coordinate_system=hd.CoordinateSystemNames.SLIDE,
                image_position=(x, y, z),
                pixel_matrix_position=(1, 1),
            )
        ],
        "tile_pixel_array": True,
        "tile_size": (TILE_PX, TILE_PX),
    }
