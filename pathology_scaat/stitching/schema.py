"""The slide map's written schema: what a reader of a map may rely on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.patches.schema import SlideGeometry

SCHEMA_NAME = "pathology_scaat.map"
SCHEMA_VERSION = 2
"""2: evidence of each explained class, how unlike the training data; raised, too, when the
constants of :mod:`pathology_scaat.scaat.evidence` change, which decide the values."""

SALIENCY_CHANNEL = "saliency"
COUNT_CHANNEL = "patches"
UNLIKE_CHANNEL = "unlike training"
PROBABILITY_PREFIX = "probability: "
EVIDENCE_PREFIX = "evidence: "
SALIENCY_PREFIX = "saliency: "


def saliency_channel(class_name: str, target_class: str) -> str:
    """Channel of a class's saliency: that of the target class has no class in its name."""
    return SALIENCY_CHANNEL if class_name == target_class else SALIENCY_PREFIX + class_name


def channel_names(
    class_names: tuple[str, ...],
    targets: tuple[str, ...],
    target_class: str,
    with_unlike: bool = False,
) -> tuple[str, ...]:
    """Channels of a map in order.

    A probability for each class; evidence and saliency for each class that is explained; how
    unlike the training data, where it is known; the number of patches.
    """
    return (
        *(PROBABILITY_PREFIX + name for name in class_names),
        *(EVIDENCE_PREFIX + name for name in targets),
        *(saliency_channel(name, target_class) for name in targets),
        *((UNLIKE_CHANNEL,) if with_unlike else ()),
        COUNT_CHANNEL,
    )


@dataclass(frozen=True)
class ChannelStatistics:
    """Spread of one channel over the pixels that have data.

    Quantiles come from a histogram that is exact to 1/128 of the value.
    """

    maximum: float
    median: float
    q99: float
    q995: float

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ChannelStatistics:
        return cls(**{name: float(value[name]) for name in ("maximum", "median", "q99", "q995")})


@dataclass(frozen=True)
class SlideMapMeta:
    """Everything a slide map says about itself (group attributes, JSON).

    The map covers ``slide.frame_px`` and nothing else: map pixel (p, r) of level 0 covers
    level-0 slide pixels ``[frame.x + p * scale_px, frame.x + (p + 1) * scale_px)`` and likewise
    in y, ``size_px`` is the frame divided by ``scale_px``, rounded up. Level *k* has pixels
    2**k times as large. Data are (C, H, W) float32; NaN is "no patch here", except in
    ``patches``, which is the number of patches that hold the pixel's centre, 0 outside.
    ``targets`` are the classes that are explained (each with evidence and saliency);
    ``explained`` are the parameters of the explanation, which say what saliency's unit is;
    ``model`` is what the bundle said about the model.
    """

    slide_id: str
    slide_fingerprint: str
    fingerprint: str
    saliency_fingerprint: str
    model_fingerprint: str
    slide: SlideGeometry
    scale_px: float
    mpp: float
    size_px: SizePx
    n_levels: int
    class_names: tuple[str, ...]
    target_class: str
    method: str
    formula: str
    n_patches: int
    statistics: dict[str, ChannelStatistics] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    with_unlike: bool = False
    explained: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return channel_names(self.class_names, self.targets, self.target_class, self.with_unlike)

    @property
    def frame_px(self) -> BoxPx:
        return self.slide.frame_px

    def to_attributes(self) -> dict[str, Any]:
        return {"schema": SCHEMA_NAME, "schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_attributes(cls, value: dict[str, Any], subject: str) -> SlideMapMeta:
        """Rebuild from group attributes; :class:`StoreError` if they are not of this schema."""
        if value.get("schema") != SCHEMA_NAME or value.get("schema_version") != SCHEMA_VERSION:
            raise StoreError(
                subject,
                f"is not a slide map of schema version {SCHEMA_VERSION}",
                "make it again with 'scaat stitch'",
            )
        try:
            statistics = dict(value["statistics"])
            return cls(
                slide_id=str(value["slide_id"]),
                slide_fingerprint=str(value["slide_fingerprint"]),
                fingerprint=str(value["fingerprint"]),
                saliency_fingerprint=str(value["saliency_fingerprint"]),
                model_fingerprint=str(value["model_fingerprint"]),
                slide=SlideGeometry.from_dict(value["slide"]),
                scale_px=float(value["scale_px"]),
                mpp=float(value["mpp"]),
                size_px=SizePx(**value["size_px"]),
                n_levels=int(value["n_levels"]),
                class_names=tuple(value["class_names"]),
                target_class=str(value["target_class"]),
                method=str(value["method"]),
                formula=str(value["formula"]),
                n_patches=int(value["n_patches"]),
                statistics={k: ChannelStatistics.from_dict(v) for k, v in statistics.items()},
                parameters=dict(value["parameters"]),
                versions=dict(value["versions"]),
                targets=tuple(value["targets"]),
                with_unlike=bool(value["with_unlike"]),
                explained=dict(value["explained"]),
                model=dict(value["model"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(
                subject, "has damaged attributes", "make it again with 'scaat stitch'"
            ) from None
