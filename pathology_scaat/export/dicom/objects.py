"""Tiles and map as DICOM objects beside a DICOM slide (needs the extra ``dicom``).

Tiles become Microscopy Bulk Simple Annotations with measurements, the map a fractional
segmentation. Both share patient and study with the slide, see :mod:`.dicom_source`. Times are
those of the slide, identifiers are made from content: the same input gives the same bytes.
"""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.output_names import FORMAT_SUFFIXES, SEGMENTATION_SUFFIX
from pathology_scaat.artifacts.urls import SlidePlace
from pathology_scaat.errors import ExportError
from pathology_scaat.export.dicom.source import need_highdicom, read_source
from pathology_scaat.export.qupath.geojson import NAMESPACE
from pathology_scaat.export.tiles import TileTable
from pathology_scaat.stitching.schema import SALIENCY_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap

MAX_SEG_PX = 4096
TILE_PX = 256
SCHEME = "99SCAAT"
ACQUISITION_EQUIPMENT = "109101"
MANUFACTURER = "pathology_scaat"


def _uid(*parts: str) -> str:
    import uuid

    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(parts)).int}"


def _settled(dataset: Any, source: Any) -> Any:
    """Replace the time of writing by the slide's own: same input, same bytes.

    Of the equipment only what wrote the object is named: the scanner's maker and number say
    where a slide is from.
    """
    dataset.ContributingEquipmentSequence = [
        item
        for item in dataset.get("ContributingEquipmentSequence", ())
        if item.PurposeOfReferenceCodeSequence[0].CodeValue != ACQUISITION_EQUIPMENT
    ]
    date = source.get("ContentDate") or source.get("StudyDate") or "19000101"
    time = source.get("ContentTime") or source.get("StudyTime") or "000000"
    for name, value in (
        ("ContentDate", date), ("ContentTime", time), ("SeriesDate", date), ("SeriesTime", time),
        ("InstanceCreationDate", date), ("InstanceCreationTime", time),
    ):  # fmt: skip
        if name in dataset:
            setattr(dataset, name, value)
    for item in dataset.iterall():
        if item.keyword == "DimensionOrganizationUID":
            item.value = _uid(dataset.SOPInstanceUID, "dimensions")
        if item.keyword in ("ContributionDateTime", "AcquisitionDateTime") and item.value:
            item.value = f"{date}{time}"
    return dataset


def _common(slide_map: SlideMap, kind: str, number: int) -> dict[str, Any]:
    key = slide_map.meta.fingerprint
    return {
        "series_instance_uid": _uid(key, kind, "series"),
        "series_number": number,
        "sop_instance_uid": _uid(key, kind, "instance"),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MANUFACTURER,
        "software_versions": metadata.version("pathology-scaat"),
        "device_serial_number": "none",
    }


def _algorithm(slide_map: SlideMap) -> Any:
    hd = need_highdicom()
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentificationSequence(
        name=f"pathology_scaat {slide_map.meta.method}",
        version=slide_map.meta.model_fingerprint[:16],
        family=codes.cid7162.ArtificialIntelligence,
    )


def write_annotations(path: Path, slide_map: SlideMap, table: TileTable, source: Any) -> None:
    """Write all tiles as one annotation group with probability and mean saliency."""
    hd = need_highdicom()
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if not len(table):
        raise ExportError(path.name, "has no tile to write", "leave 'dicom' out for this slide")
    x0, y0, x1, y1 = table.edges_px.astype(np.float64).T
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(-1, 4, 2)
    target = slide_map.meta.target_class
    measured = [
        (Code("probability", SCHEME, f"Probability of {target}"[:64]),
         table.probability[:, table.target_index]),
        (Code("saliency", SCHEME, "Mean saliency"), table.saliency_mean),
    ]  # fmt: skip
    group = hd.ann.AnnotationGroup(
        number=1,
        uid=_uid(slide_map.meta.fingerprint, "tiles"),
        label="SCAAT tiles",
        annotated_property_category=codes.SCT.SpatialAndRelationalConcept,
        annotated_property_type=Code("tile", SCHEME, "Image tile"),
        graphic_type=hd.ann.GraphicTypeValues.POLYGON,
        graphic_data=list(corners),
        algorithm_type=hd.ann.AnnotationGroupGenerationTypeValues.AUTOMATIC,
        algorithm_identification=_algorithm(slide_map),
        measurements=[
            hd.ann.Measurements(name=name, values=values.astype(np.float32),
                                unit=codes.UCUM.NoUnits)
            for name, values in measured
        ],
    )  # fmt: skip
    dataset = hd.ann.MicroscopyBulkSimpleAnnotations(
        source_images=[source],
        annotation_coordinate_type=hd.ann.AnnotationCoordinateTypeValues.SCOORD,
        annotation_groups=[group],
        content_label="SCAAT_TILES",
        **_common(slide_map, "ann", 9001),
    )
    with atomic_path(path) as partial:
        _settled(dataset, source).save_as(partial)


def write_segmentation(path: Path, slide_map: SlideMap, source: Any, vmax: float) -> None:
    """Write saliency as a fractional segmentation: 255 is ``vmax``, no data is 0."""
    hd = need_highdicom()
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    level = slide_map.level_for(MAX_SEG_PX)
    values = np.nan_to_num(slide_map.read(SALIENCY_CHANNEL, level), nan=0.0)
    spacing_mm = slide_map.mpp * 2**level / 1000
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Saliency",
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=Code("saliency", SCHEME, "Saliency of a model"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=_algorithm(slide_map),
    )
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    origin = source.TotalPixelMatrixOriginSequence[0]
    place = hd.PlanePositionSequence(
        coordinate_system=hd.CoordinateSystemNames.SLIDE,
        image_position=(
            float(origin.XOffsetInSlideCoordinateSystem),
            float(origin.YOffsetInSlideCoordinateSystem),
            float(origin.get("ZOffsetInSlideCoordinateSystem", 0.0)),
        ),
        pixel_matrix_position=(1, 1),
    )
    dataset = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=np.clip(values / vmax, 0, 1)[None].astype(np.float32),
        segmentation_type=hd.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        segment_descriptions=[segment],
        pixel_measures=hd.PixelMeasuresSequence(
            pixel_spacing=(spacing_mm, spacing_mm),
            slice_thickness=float(measures.get("SliceThickness", 0.0)),
        ),
        plane_positions=[place],
        tile_pixel_array=True,
        tile_size=(TILE_PX, TILE_PX),
        content_label="SCAAT_SALIENCY",
        **_common(slide_map, "seg", 9002),
    )
    # wanted of a slide, which has no patient's directions, as an empty value (type 2C)
    dataset.PatientOrientation = None
    with atomic_path(path) as partial:
        _settled(dataset, source).save_as(partial)


def write_dicom(
    path: Path, slide_map: SlideMap, table: TileTable, slide_path: SlidePlace | None, vmax: float,
    identified: bool,
) -> Path:  # fmt: skip
    """Write annotations to ``path`` and the segmentation beside it (returned).

    Raises
    ------
    ExportError
        If the slide is not at hand, is not DICOM, or names a patient without leave to copy.
    """
    if slide_path is None:
        raise ExportError(path.name, "needs the DICOM slide it belongs to", "give --manifest")
    source = read_source(slide_path, identified)
    beside = path.with_name(path.name.removesuffix(FORMAT_SUFFIXES["dicom"]) + SEGMENTATION_SUFFIX)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom warns of empty names in the source
        write_annotations(path, slide_map, table, source)
        write_segmentation(beside, slide_map, source, vmax)
    return beside
