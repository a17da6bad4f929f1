"""The registry of export formats.

An exporter is a callable of a path and a :class:`pathology_scaat.export.context.Context` that
writes the file and returns the :class:`pathology_scaat.export.frame.ExportFrame` whose pixels it
speaks in. One that another package adds also has an attribute ``suffix``, such as ``".xml"``.
"""

from __future__ import annotations

from pathology_scaat.system.registry import Registry

EXPORTERS = Registry("export format", "pathology_scaat.exporters")

_WRITERS = "pathology_scaat.export.writers:export_"
for _name, _function, _summary in (
    ("geojson", "geojson", "QuPath objects, packed"),
    ("geojson-plain", "geojson", "QuPath objects, not packed"),
    ("ome-tiff", "ome_tiff", "the map's values"),
    ("rgb-tiff", "rgb_tiff", "coloured map for OpenSlide viewers"),
    ("tile-png", "tile_png", "one pixel per tile"),
    ("png", "png", "maps over the slide"),
    ("figure", "figure", "all pictures of the slide"),
    ("csv", "csv", "table of scores"),
    ("annotation-store", "annotation_store", "for TIAToolbox and TIAViz"),
    ("dicom", "dicom", "DICOM annotations and segmentation"),
    ("dicom-map", "dicom_map", "DICOM parametric map: the map's values"),
    ("dicom-sr", "dicom_sr", "DICOM structured report: score, regions, verdicts"),
):
    EXPORTERS.register(_name, _WRITERS + _function, _summary)
