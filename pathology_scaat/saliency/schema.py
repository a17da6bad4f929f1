"""The saliency store's written schema: what explaining a slide leaves for stitching."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.patches.schema import SlideGeometry

SCHEMA_NAME = "pathology_scaat.saliency"
SCHEMA_VERSION = 1
CONTRIBUTION_ARRAY = "contribution"


@dataclass(frozen=True)
class SaliencyStoreMeta:
    """Everything a saliency store says about itself (group attributes, JSON).

    Arrays beside it, N patches in the order of the patch store:

    ==================  ==================  ====================================================
    name                shape, dtype        meaning
    ==================  ==================  ====================================================
    ``saliency``        (N, h, h) float16   |attribution| of the target, summed over channels and
                                            averaged over ``stride_px`` output pixels; one scale
                                            for the whole slide, never normalised by patch
    ``probability``     (N, K) float32      softmax over ``class_names``
    ``contribution``    (N, K) float32      what the patch adds to the slide's logits; they sum to
                                            them. Only of models for bags
    ``origin_px``       (N, 2) int64        level-0 top-left corner, x, y
    ``grid_index``      (N, 2) int32        column, row in the grid
    ==================  ==================  ====================================================

    ``h = patch_size_px / stride_px``; ``target_class`` is the same for the whole slide.
    """

    slide_id: str
    slide_fingerprint: str
    fingerprint: str
    patch_fingerprint: str
    model_fingerprint: str
    slide: SlideGeometry
    grid: PatchGrid
    effective_mpp: float
    stride_px: int
    class_names: tuple[str, ...]
    target_class: str
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def target_index(self) -> int:
        return self.class_names.index(self.target_class)

    def to_attributes(self) -> dict[str, Any]:
        return {"schema": SCHEMA_NAME, "schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_attributes(cls, value: dict[str, Any], subject: str) -> SaliencyStoreMeta:
        """Rebuild from group attributes; :class:`StoreError` if they are not of this schema."""
        if value.get("schema") != SCHEMA_NAME or value.get("schema_version") != SCHEMA_VERSION:
            raise StoreError(
                subject,
                f"is not a saliency store of schema version {SCHEMA_VERSION}",
                "make it again with 'scaat explain'",
            )
        try:
            return cls(
                slide_id=str(value["slide_id"]),
                slide_fingerprint=str(value["slide_fingerprint"]),
                fingerprint=str(value["fingerprint"]),
                patch_fingerprint=str(value["patch_fingerprint"]),
                model_fingerprint=str(value["model_fingerprint"]),
                slide=SlideGeometry.from_dict(value["slide"]),
                grid=PatchGrid(**value["grid"]),
                effective_mpp=float(value["effective_mpp"]),
                stride_px=int(value["stride_px"]),
                class_names=tuple(value["class_names"]),
                target_class=str(value["target_class"]),
                method=str(value["method"]),
                parameters=dict(value["parameters"]),
                versions=dict(value["versions"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(
                subject, "has damaged attributes", "make it again with 'scaat explain'"
            ) from None
