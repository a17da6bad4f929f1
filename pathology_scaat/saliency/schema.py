"""The saliency store's written schema: what explaining a slide leaves for stitching."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.patches.schema import SlideGeometry

SCHEMA_NAME = "pathology_scaat.saliency"
SCHEMA_VERSION = 1
CONTRIBUTION_ARRAY = "contribution"

MAIN_ARRAY = "saliency"
UNLIKE_ARRAY = "unlike"
UNLIKE_PERCENTILE = 99.0
"""From this percentile on a patch is reported as unlike the training data: 1 % of held-out
patches are."""
UNLIKE_SLIDE_SHARE = 0.25
"""Share of unlike patches from which a whole slide is reported as unlike the training data."""


def unlike_share(percentile: NDArray[np.float32] | None) -> float | None:
    """Share of patches from :data:`UNLIKE_PERCENTILE` on, 0 to 1; None where none is known.

    ``percentile`` is (N,), 0 to 100.
    """
    if percentile is None or not len(percentile):
        return None
    return float(np.mean(percentile >= UNLIKE_PERCENTILE))


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
    ``saliency_K``      (N, h, h) float16   the same for class number K, where several classes
                                            are explained and share no map
    ``probability``     (N, K) float32      at the model's temperature; softmax over
                                            ``class_names``, or
                                            each class's sigmoid where ``multi_label``
    ``unlike``          (N,) float32        how unlike the training patches, percentile 0 to 100;
                                            only where the model knows what they look like
    ``contribution``    (N, K) float32      what the patch adds to the slide's logits; they sum to
                                            them. Only of models for bags
    ``origin_px``       (N, 2) int64        level-0 top-left corner, x, y
    ``grid_index``      (N, 2) int32        column, row in the grid
    ==================  ==================  ====================================================

    ``h = patch_size_px / stride_px``. ``targets`` are the classes that are explained on every
    patch, in the order of ``class_names``; ``saliency`` is of ``target_class``, which is one of
    them. Of two classes that exclude each other the margins differ in sign alone: they share
    ``saliency`` (``arrays`` says which array is of which class). ``model`` is what the bundle
    says about the model and this slide's part in its training
    (:meth:`pathology_scaat.training.bundle_config.BundleConfig.facts`).
    ``multi_label`` is missing, and so False, in stores of before it was written.
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
    multi_label: bool = False
    arrays: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The classes that are explained, in the order of ``class_names``."""
        return tuple(n for n in self.class_names if n in self.arrays) or (self.target_class,)

    def array_of(self, class_name: str) -> str:
        """The array that holds the saliency for a class; ValueError where it is not explained."""
        if class_name not in self.targets:
            raise ValueError(class_name)
        return self.arrays.get(class_name, MAIN_ARRAY)

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
                multi_label=bool(value.get("multi_label", False)),
                model=dict(value.get("model") or {}),
                arrays={str(k): str(v) for k, v in dict(value.get("arrays") or {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(
                subject, "has damaged attributes", "make it again with 'scaat explain'"
            ) from None
