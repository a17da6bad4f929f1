"""The slide map's written schema: what a reader of a map may rely on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.patches.schema import SlideGeometry

SCHEMA_NAME = "pathology_scaat.map"
SCHEMA_VERSION = 1

SALIENCY_CHANNEL = "saliency"
COUNT_CHANNEL = "patches"
PROBABILITY_PREFIX = "probability: "


def channel_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Channels of a map in order: a probability a class, saliency, number of patches."""
    return (*(PROBABILITY_PREFIX + name for name in class_names), SALIENCY_CHANNEL, COUNT_CHANNEL)


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

    @property
    def channel_names(self) -> tuple[str, ...]:
        return channel_names(self.class_names)

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
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(
                subject, "has damaged attributes", "make it again with 'scaat stitch'"
            ) from None
