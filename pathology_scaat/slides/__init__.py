"""Slides: one protocol, several readers, chosen by what the file is."""

from pathology_scaat.slides.base import LevelInfo, RgbImage, Slide, SlideInfo
from pathology_scaat.slides.opening import open_slide
from pathology_scaat.slides.readers import READERS

__all__ = ["READERS", "LevelInfo", "RgbImage", "Slide", "SlideInfo", "open_slide"]
