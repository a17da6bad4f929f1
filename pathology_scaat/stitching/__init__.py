"""Stitching: from the saliency of patches to a map of the slide.

Names are loaded on first use: importing this package does not import zarr.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathology_scaat.stitching.config import StitchConfig
    from pathology_scaat.stitching.slide_map import SlideMap, open_map
    from pathology_scaat.stitching.stitch import StitchResult, stitch_slide

_HOMES = {
    "SlideMap": "slide_map",
    "StitchConfig": "config",
    "StitchResult": "stitch",
    "open_map": "slide_map",
    "stitch_slide": "stitch",
}

__all__ = ["SlideMap", "StitchConfig", "StitchResult", "open_map", "stitch_slide"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pathology_scaat.stitching.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
