"""Tiles and map as DICOM objects beside a DICOM slide (needs the extra ``dicom``).

Tiles become Microscopy Bulk Simple Annotations with measurements, the map a fractional
segmentation. Both share patient and study with the slide, see :mod:`.source`. Times are
those of the slide, identifiers are made from content: the same input gives the same bytes.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.output_names import FORMAT_SUFFIXES, SEGMENTATION_SUFFIX
from pathology_scaat.artifacts.urls import SlideLocation
from pathology_scaat.errors import ExportError
from pathology_scaat.export.dicom.shared import (
    MAX_MAP_PX,
    SCHEME,
    add_facts,
    algorithm,
    common,
    description,
    map_geometry,
    uid,
    with_fixed_date,
)
from pathology_scaat.export.dicom.source import need_highdicom, needed_source
from pathology_scaat.export.raster.examined import resampled
from pathology_scaat.export.tiles import TileTable
from pathology_scaat.stitching.schema import SALIENCY_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap


def write_annotations(
    path: Path, slide_map: SlideMap, table: TileTable, source: Any, facts: dict[str, str]
) -> None:
    """Write all tiles as one annotation group with probability and mean saliency.

    Raises
    ------
    ExportError
        If there is no tile.
    """
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
        *((Code("unlike", SCHEME, name[:64]), values) for name, values in table.more),
    ]  # fmt: skip
    group = hd.ann.AnnotationGroup(
        number=1,
        uid=uid(slide_map.meta.fingerprint, "tiles"),
        label="SCAAT tiles",
        annotated_property_category=codes.SCT.SpatialAndRelationalConcept,
        annotated_property_type=Code("tile", SCHEME, "Image tile"),
        graphic_type=hd.ann.GraphicTypeValues.POLYGON,
        graphic_data=list(corners),
        algorithm_type=hd.ann.AnnotationGroupGenerationTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(slide_map),
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
        **common(slide_map, "ann", 9001),
    )
    dataset.ContentDescription = description(facts)
    with atomic_path(path) as partial:
        with_fixed_date(dataset, source).save_as(partial)


def write_segmentation(
    path: Path, slide_map: SlideMap, source: Any, vmax: float, facts: dict[str, str],
    shown: NDArray[np.bool_] | None = None,
) -> None:  # fmt: skip
    """Write saliency as a fractional segmentation: 255 is ``vmax``, no data is 0.

    ``shown`` is where pictures may have colour, (H, W) of any size over the map's area: glass,
    and tissue that the model cannot judge, are 0 as well, and the object says how much that is.
    """
    hd = need_highdicom()
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    level = slide_map.level_for(MAX_MAP_PX)
    values = np.nan_to_num(slide_map.read(SALIENCY_CHANNEL, level), nan=0.0)
    facts = dict(facts)
    if shown is not None:
        seen = resampled(shown, values.shape)
        withheld = int((~seen & (values > 0)).sum())
        values = np.where(seen, values, 0)
        facts["segmentation"] = (
            "0 also on glass and where tissue is unlike the training data and so not judged "
            f"({withheld * (slide_map.mpp * 2**level) ** 2 / 1e6:.3g} mm2 that the map has values "
            "for); 0 there is no finding"
        )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Saliency",
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=Code("saliency", SCHEME, "Saliency of a model"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(slide_map),
    )
    dataset = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=np.clip(values / vmax, 0, 1)[None].astype(np.float32),
        segmentation_type=hd.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        segment_descriptions=[segment],
        content_label="SCAAT_SALIENCY",
        **map_geometry(slide_map, source, level),
        **common(slide_map, "seg", 9002),
    )
    add_facts(dataset, facts)
    # wanted of a slide, which has no patient's directions, as an empty value (type 2C)
    dataset.PatientOrientation = None
    with atomic_path(path) as partial:
        with_fixed_date(dataset, source).save_as(partial)


def write_dicom(
    path: Path,
    slide_map: SlideMap,
    table: TileTable,
    slide_path: SlideLocation | None,
    vmax: float,
    identified: bool,
    facts: dict[str, str],
    shown: NDArray[np.bool_] | None = None,
) -> Path:
    """Write annotations to ``path`` and the segmentation beside it (returned).

    ``shown``, (H, W) of any size over the map's area, is where pictures may have colour
    (:func:`write_segmentation`); ``vmax`` is the saliency that becomes 255.

    Raises
    ------
    ExportError
        If the slide is not at hand, is not DICOM, or names a patient without leave to copy.
    """
    source = needed_source(path.name, slide_path, identified)
    beside = path.with_name(path.name.removesuffix(FORMAT_SUFFIXES["dicom"]) + SEGMENTATION_SUFFIX)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom warns of empty names in the source
        write_annotations(path, slide_map, table, source, facts)
        write_segmentation(beside, slide_map, source, vmax, facts, shown)
    return beside
