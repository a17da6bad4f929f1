"""Export: slide maps as files that QuPath and other viewers open.

Names are loaded on first use: importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathology_scaat.export.config import ExportConfig
    from pathology_scaat.export.export import ExportResult, export_slide
    from pathology_scaat.export.qupath.validator import validate_qupath_geojson

_HOMES = {
    "ExportConfig": "config",
    "ExportResult": "export",
    "export_slide": "export",
    "validate_qupath_geojson": "qupath.validator",
}

__all__ = ["ExportConfig", "ExportResult", "export_slide", "validate_qupath_geojson"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pathology_scaat.export.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
