"""Stitching: from the saliency of patches to a map of the slide."""

from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.stitch import StitchResult, stitch_slide

__all__ = ["SlideMap", "StitchConfig", "StitchResult", "stitch_slide"]
