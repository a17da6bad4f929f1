"""Annotations people already have, read into labelled polygons, and patch labels from them."""

from pathology_scaat.annotations.labels import label_patches
from pathology_scaat.annotations.model import LabelledPolygon, is_ignored_class
from pathology_scaat.annotations.reading import read_annotations

__all__ = ["LabelledPolygon", "is_ignored_class", "label_patches", "read_annotations"]
