"""On what scale a map's channel is shown: the model's, so that slides can be compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.model_facts import NOTHING_LEARNT, ModelFacts
from pathology_scaat.export.raster.colour_scale import (
    ColourScale,
    evidence_scale,
    probability_scale,
    saliency_scale,
)
from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.stitching import SlideMap
from pathology_scaat.stitching.schema import (
    COUNT_CHANNEL,
    EVIDENCE_PREFIX,
    PROBABILITY_PREFIX,
    UNLIKE_CHANNEL,
    saliency_channel,
)


@dataclass(frozen=True)
class ChannelScale:
    """How a channel is coloured unless the reader chooses otherwise.

    Attributes
    ----------
    channel : str
    floor, top : float
        Nothing is drawn below the first; the second has the last colour.
    source : str
        Where they come from, in words.
    is_shared : bool
        Whether other slides of the model are shown on the same scale.
    not_drawn : str
        Why the channel is not drawn at all; empty where it is.
    """

    channel: str
    floor: float
    top: float
    source: str
    is_shared: bool
    not_drawn: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def channel_scales(slide_map: SlideMap, facts: ModelFacts) -> tuple[ChannelScale, ...]:
    """The scale of each channel of a map, in their order; the same as that of the pictures."""
    return tuple(_scale(slide_map, facts, channel) for channel in slide_map.channel_names)


def _scale(slide_map: SlideMap, facts: ModelFacts, channel: str) -> ChannelScale:
    config, meta = ExportConfig(), slide_map.meta
    useless = "" if facts.has_learnt else NOTHING_LEARNT
    if channel.startswith(EVIDENCE_PREFIX):
        name = channel.removeprefix(EVIDENCE_PREFIX)
        return _of(channel, evidence_scale(facts, name, config, meta.method), useless)
    if channel.startswith(PROBABILITY_PREFIX):
        return _of(channel, probability_scale(config, facts.least_said(len(meta.class_names))))
    if channel == UNLIKE_CHANNEL:
        said = f"percentile of held-out patches; drawn from the {UNLIKE_PERCENTILE:g}th"
        return ChannelScale(channel, UNLIKE_PERCENTILE, 100.0, said, True)
    if channel == COUNT_CHANNEL:
        spread = meta.statistics.get(channel)
        top = (spread.maximum if spread else 0.0) or 1.0
        return ChannelScale(channel, 0.0, top, "largest number on this slide", False)
    for name in meta.targets:
        if channel == saliency_channel(name, meta.target_class):
            return _of(channel, saliency_scale(slide_map, facts, name, config), useless)
    return _of(channel, saliency_scale(slide_map, facts, meta.target_class, config), useless)


def _of(channel: str, scale: ColourScale, not_drawn: str = "") -> ChannelScale:
    return ChannelScale(channel, scale.floor, scale.vmax, scale.source, scale.is_shared, not_drawn)
