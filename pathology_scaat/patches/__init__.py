"""Patches: the grid, the patch store, and tiling a slide into it.

Names are loaded on first use: importing this package reads no library of pixels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathology_scaat.annotations.labels import UNLABELLED
    from pathology_scaat.patches.config import TileConfig, TileJob, TileResult
    from pathology_scaat.patches.reader import PatchStore
    from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
    from pathology_scaat.patches.tiling import tile_slide
    from pathology_scaat.patches.writer import PatchStoreWriter, write_patch_store

_HOMES = {
    "UNLABELLED": "pathology_scaat.annotations.labels",
    "TileConfig": "pathology_scaat.patches.config",
    "TileJob": "pathology_scaat.patches.config",
    "TileResult": "pathology_scaat.patches.config",
    "PatchStore": "pathology_scaat.patches.reader",
    "PatchStoreMeta": "pathology_scaat.patches.schema",
    "SlideGeometry": "pathology_scaat.patches.schema",
    "tile_slide": "pathology_scaat.patches.tiling",
    "PatchStoreWriter": "pathology_scaat.patches.writer",
    "write_patch_store": "pathology_scaat.patches.writer",
}

__all__ = [
    "UNLABELLED",
    "PatchStore",
    "PatchStoreMeta",
    "PatchStoreWriter",
    "SlideGeometry",
    "TileConfig",
    "TileJob",
    "TileResult",
    "tile_slide",
    "write_patch_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
