"""Annotations people already have, read into labelled polygons, and patch labels from them."""

from pathology_scaat.annotations.labels import Background, label_patches
from pathology_scaat.annotations.model import LabelledPolygon, is_ignored_class
from pathology_scaat.annotations.on_tissue import off_tissue_notes
from pathology_scaat.annotations.reading import read_annotation_file, read_annotations
from pathology_scaat.annotations.report import AnnotationFile, AnnotationReport, report_on

__all__ = [
    "AnnotationFile",
    "AnnotationReport",
    "Background",
    "LabelledPolygon",
    "is_ignored_class",
    "label_patches",
    "off_tissue_notes",
    "read_annotation_file",
    "read_annotations",
    "report_on",
]
