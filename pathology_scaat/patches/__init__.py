"""Patches: the grid, the patch store, and tiling a slide into it."""

from pathology_scaat.annotations.labels import UNLABELLED
from pathology_scaat.patches.config import TileConfig, TileJob, TileResult
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
from pathology_scaat.patches.tiling import tile_slide
from pathology_scaat.patches.writer import PatchStoreWriter, write_patch_store

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
