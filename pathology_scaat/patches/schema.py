"""The patch store's written schema: what a reader may rely on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx

SCHEMA_NAME = "pathology_scaat.patches"
SCHEMA_VERSION = 1
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
class PatchStoreMeta:
    """Everything a patch store says about itself (group attributes, JSON).

    Arrays beside it, N patches in slide order (row by row):

    ==================  ==================  ====================================================
    name                shape, dtype        meaning
    ==================  ==================  ====================================================
    ``patches``         (N, P, P, 3) uint8  pixels; chunk = one patch, sharded
    ``origin_px``       (N, 2) int64        level-0 top-left corner, x, y
    ``grid_index``      (N, 2) int32        column, row in the grid (exact origins come from it)
    ``tissue_fraction`` (N,) float32        tissue share of the patch area, 0 to 1
    ``label``           (N,) int16          index into ``class_names``, -1 where undecided
    ``label_coverage``  (N, K) float32      share of the patch each class covers
    ==================  ==================  ====================================================

    ``notes`` and ``warnings`` are what was to be said when the store was made (the slide
    reader's own notes are not among them); a run that finds the store right says it again.
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
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_attributes(self) -> dict[str, Any]:
        return {"schema": SCHEMA_NAME, "schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_attributes(cls, value: dict[str, Any], subject: str) -> PatchStoreMeta:
        """Rebuild from group attributes.

        Raises
        ------
        StoreError
            If the attributes are of another schema, version or shape.
        """
        if value.get("schema") != SCHEMA_NAME or value.get("schema_version") != SCHEMA_VERSION:
            raise StoreError(
                subject,
                f"is not a patch store of schema version {SCHEMA_VERSION}",
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
                parameters=dict(value["parameters"]),
                versions=dict(value["versions"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(
                subject, "has damaged attributes", "make it again with 'scaat tile'"
            ) from None
