"""Slides: one protocol, several readers, chosen by what the file is.

Names are loaded on first use: importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathology_scaat.slides.base import LevelInfo, RgbImage, Slide, SlideInfo
    from pathology_scaat.slides.opening import open_slide
    from pathology_scaat.slides.readers import READERS

_HOMES = {
    "LevelInfo": "base",
    "RgbImage": "base",
    "Slide": "base",
    "SlideInfo": "base",
    "open_slide": "opening",
    "READERS": "readers",
}

__all__ = ["READERS", "LevelInfo", "RgbImage", "Slide", "SlideInfo", "open_slide"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pathology_scaat.slides.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
