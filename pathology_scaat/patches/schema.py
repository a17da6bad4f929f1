"""The patch store's written schema: what a reader may rely on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.patches.blocks import block_side_px

SCHEMA_NAME = "pathology_scaat.patches"
SCHEMA_VERSION = 1
"""Of stores that hold whole patches."""
BLOCKS_VERSION = 2
"""Of stores that hold the blocks which overlapping patches share."""
JPEG_VERSION = 3
"""Of stores that hold the slide's own JPEG tiles, as patches or as blocks."""
ATTRIBUTES_KEY = "pathology_scaat"
"""Key of the zarr group attributes under which all metadata stand."""


@dataclass(frozen=True)
class SlideGeometry:
    """The slide's frame, copied into every artifact so that none needs the slide again.

    ``mpp`` is µm per level-0 pixel; ``bounds_px`` the scanned area where the scanner states one.
    """

    size_px: SizePx
    mpp: float
    mpp_source: str
    bounds_px: BoxPx | None = None
    vendor: str = "unknown"
    reader: str = "unknown"

    @property
    def frame_px(self) -> BoxPx:
        return self.bounds_px or BoxPx(0, 0, self.size_px.width, self.size_px.height)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SlideGeometry:
        bounds = value.get("bounds_px")
        return cls(
            size_px=SizePx(**value["size_px"]),
            mpp=float(value["mpp"]),
            mpp_source=str(value["mpp_source"]),
            bounds_px=BoxPx(**bounds) if bounds else None,
            vendor=str(value.get("vendor", "unknown")),
            reader=str(value.get("reader", "unknown")),
        )


@dataclass(frozen=True)
class SlideJpeg:
    """How far a store's pixels are the slide's own JPEG tiles.

    Attributes
    ----------
    n_kept : int
        Patches or blocks that are tiles of the slide as it holds them.
    n_decoded : dict of str to int
        How many were decoded and stored losslessly, by the reason.
    """

    n_kept: int
    n_decoded: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SlideJpeg:
        decoded = {str(reason): int(n) for reason, n in value["n_decoded"].items()}
        return cls(int(value["n_kept"]), decoded)


def _block_size(value: dict[str, Any]) -> int | None:
    version = value["schema_version"]
    if version == SCHEMA_VERSION or (version == JPEG_VERSION and "block_size_px" not in value):
        return None
    side, patch = int(value["block_size_px"]), int(value["grid"]["patch_size_px"])
    if side < 1 or patch % side:
        raise ValueError("block_size_px")
    return side


def store_version(patch_size_px: int, step_px: int) -> int:
    """Schema version of the store that tiling makes of such a grid."""
    return SCHEMA_VERSION if block_side_px(patch_size_px, step_px) is None else BLOCKS_VERSION


@dataclass(frozen=True)
class PatchStoreMeta:
    """Everything a patch store says about itself (group attributes, JSON).

    Arrays beside it, N patches in slide order (row by row):

    ==================  ==================  ====================================================
    name                shape, dtype        meaning
    ==================  ==================  ====================================================
    ``patches``         (N, P, P, 3) uint8  pixels; chunk = one patch, sharded (version 1, 3)
    ``blocks``          (M, S, S, 3) uint8  pixels; chunk = one block, sharded (version 2, 3)
    ``patch_blocks``    (N, k * k) int32    blocks of each patch, row by row (version 2, 3)
    ``origin_px``       (N, 2) int64        level-0 top-left corner, x, y
    ``grid_index``      (N, 2) int32        column, row in the grid (exact origins come from it)
    ``tissue_fraction`` (N,) float32        tissue share of the patch area, 0 to 1
    ``label``           (N,) int16          index into ``class_names``, -1 where undecided
    ``label_coverage``  (N, K) float32      share of the patch each class covers
    ==================  ==================  ====================================================

    Where patches overlap, the store holds the blocks of side S that they share, each once
    (:mod:`pathology_scaat.patches.blocks`); ``block_size_px`` is S, None for whole patches.

    In version 3 a chunk of pixels is a tile of the slide as its file holds it, a JPEG stream
    (:mod:`pathology_scaat.patches.jpeg_chunk`), or decoded where that cannot be; ``slide_jpeg``
    counts both. Patches are tiles, or ``blocks`` are where a patch has several.

    Where a model was applied, a store may hold all but the pixels, which are read from the slide
    (``has_pixels`` is False): neither ``patches`` nor ``blocks`` and ``patch_blocks`` are there.

    ``fingerprint`` is that of the patches, with or without their pixels; ``label_fingerprint``
    that of the labels on these patches, which change alone where only annotations or class names
    do (:mod:`pathology_scaat.patches.identity`); empty in stores that others than ``tile`` made.
    ``versions`` are those of what cut the patches.

    ``notes`` (of the patches), ``label_notes`` and ``warnings`` (of the labels) are what was to
    be said when they were made (the slide reader's own notes are not among them); a run that
    finds the store right says it again.
    """

    slide_id: str
    slide_fingerprint: str
    fingerprint: str
    slide: SlideGeometry
    grid: PatchGrid
    requested_mpp: float
    effective_mpp: float
    level_read: int
    class_names: tuple[str, ...] = ()
    n_unreadable: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    block_size_px: int | None = None
    has_pixels: bool = True
    slide_jpeg: SlideJpeg | None = None
    label_fingerprint: str = ""
    label_notes: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_attributes(self) -> dict[str, Any]:
        value = {"schema": SCHEMA_NAME, "schema_version": self.schema_version, **asdict(self)}
        if self.block_size_px is None:  # as version 1 has always been written
            del value["block_size_px"]
        if self.has_pixels:
            del value["has_pixels"]
        if self.slide_jpeg is None:
            del value["slide_jpeg"]
        return value

    @property
    def schema_version(self) -> int:
        if self.slide_jpeg is not None:
            return JPEG_VERSION
        return SCHEMA_VERSION if self.block_size_px is None else BLOCKS_VERSION

    @classmethod
    def from_attributes(cls, value: dict[str, Any], subject: str) -> PatchStoreMeta:
        """Rebuild from group attributes.

        Raises
        ------
        StoreError
            If the attributes are of another schema, version or shape.
        """
        known = (SCHEMA_VERSION, BLOCKS_VERSION, JPEG_VERSION)
        version = value.get("schema_version")
        if value.get("schema") != SCHEMA_NAME or version not in known:
            raise StoreError(
                subject,
                f"is not a patch store of schema version {SCHEMA_VERSION}, {BLOCKS_VERSION} or "
                f"{JPEG_VERSION}",
                "make it again with 'scaat tile'",
            )
        try:
            return cls(
                slide_id=str(value["slide_id"]),
                slide_fingerprint=str(value["slide_fingerprint"]),
                fingerprint=str(value["fingerprint"]),
                slide=SlideGeometry.from_dict(value["slide"]),
                grid=PatchGrid(**value["grid"]),
                requested_mpp=float(value["requested_mpp"]),
                effective_mpp=float(value["effective_mpp"]),
                level_read=int(value["level_read"]),
                class_names=tuple(value["class_names"]),
                n_unreadable=int(value["n_unreadable"]),
                notes=tuple(map(str, value.get("notes", ()))),
                warnings=tuple(map(str, value.get("warnings", ()))),
                block_size_px=_block_size(value),
                has_pixels=bool(value.get("has_pixels", True)),
                slide_jpeg=(
                    SlideJpeg.from_dict(value["slide_jpeg"]) if version == JPEG_VERSION else None
                ),
                label_fingerprint=str(value.get("label_fingerprint", "")),
                label_notes=tuple(map(str, value.get("label_notes", ()))),
                parameters=dict(value["parameters"]),
                versions=dict(value["versions"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(
                subject, "has damaged attributes", "make it again with 'scaat tile'"
            ) from None
