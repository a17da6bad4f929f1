"""The arms of the comparison: a method of the registry, its options, its share of epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arm:
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    epochs_factor: float = 1.0
    finetune_share: float = 0.0
    """Plain training to its end first; then this share of its epochs more with the method."""
    shuffled_labels: bool = False
    note: str = ""


HARD = {"gamma": 0.0}
"""The hard mask: every pixel of the less salient half has the whole budget."""


FROM_THE_START: dict[str, Any] = {"start": 0.0}
"""Stated, since it is not the default of the package."""


def _scaat(eps_255: float, **options: Any) -> Arm:
    return Arm("scaat", {"eps": eps_255 / 255, **FROM_THE_START, **options})


ARMS: dict[str, Arm] = {
    "plain": Arm("plain"),
    "plain-2x": Arm("plain", {}, 2.0, note="twice the epochs: SCAAT's wall clock"),
    "sgt": Arm("sgt", {**FROM_THE_START}, 1.0, note="Saliency Guided Training, |gradient|"),
    "fgsm": Arm("fgsm", {"eps": 16 / 255}, 1.0, note="same mean |delta| as scaat-32"),
    "random-mask": Arm("random-mask", {"eps": 32 / 255, **HARD, **FROM_THE_START}),
    "random-mask-soft-16": Arm("random-mask", {"eps": 16 / 255, "gamma": 1.0, **FROM_THE_START}),
    "random-noise": Arm("random-noise", {"eps": 32 / 255, **HARD, **FROM_THE_START}),
    "inverted-mask": Arm("inverted-mask", {"eps": 32 / 255, **HARD, **FROM_THE_START}),
    "gradient-penalty": Arm("gradient-penalty", {"lam": 0.1}),
    "scaat-8": _scaat(8, **HARD),
    "scaat-16": _scaat(16, **HARD),
    "scaat-32": _scaat(32, **HARD),
    "scaat-64": _scaat(64, **HARD),
    "scaat-soft-8": _scaat(8, gamma=1.0),
    "scaat-soft-16": _scaat(16, gamma=1.0),
    "scaat-soft-32": _scaat(32, gamma=1.0),
    "scaat-soft-16-smooth9": _scaat(16, gamma=1.0, smooth_px=9),
    "scaat-32-every2": _scaat(32, every=2, **HARD),
    "scaat-32-unmasked25": _scaat(32, unmasked_share=0.25, **HARD),
    "plain-shuffled-labels": Arm("plain", shuffled_labels=True, note="label randomisation"),
    "staged-soft-16": _scaat(16, gamma=1.0, start=0.5),
    "staged-confidence": _scaat(16, gamma=1.0, start=0.5, sample_scale="confidence"),
    "finetune-fifth": Arm(
        "scaat",
        {"eps": 16 / 255, "gamma": 1.0, **FROM_THE_START},
        finetune_share=0.2,
        note="plain to the end, then a fifth more epochs at a tenth of the learning rate",
    ),
    "plain-1.5x": Arm("plain", {}, 1.5, note="half as many epochs again: staged SCAAT's cost"),
    "token-hard-16": _scaat(16, grid="network", **HARD),
    "token-soft-16": _scaat(16, grid="network", gamma=1.0),
    "staged-token-hard-16": _scaat(16, grid="network", start=0.5, **HARD),
    "staged-random-16": Arm("random-mask", {"eps": 16 / 255, "gamma": 1.0, "start": 0.5}),
    # the default with one thing changed, each by itself
    "staged-hard-16": _scaat(16, start=0.5, **HARD),
    "staged-soft-8": _scaat(8, start=0.5),
    "staged-soft-32": _scaat(32, start=0.5),
    "staged-everywhere": _scaat(16, start=0.5, where="all"),
    "staged-salient": _scaat(16, start=0.5, where="high"),
    "staged-tissue": _scaat(16, start=0.5, region="tissue"),
    "staged-smooth9": _scaat(16, start=0.5, smooth_px=9),
    "staged-cells": _scaat(16, start=0.5, grid="network"),
    "staged-instance": _scaat(16, start=0.5, sample_scale="instance"),
    "staged-two-steps": _scaat(16, start=0.5, steps=2),
    "staged-unmasked25": _scaat(16, start=0.5, unmasked_share=0.25),
    "staged-teacher": _scaat(16, start=0.5, saliency="ema-teacher"),
    "staged-density": Arm(
        "scaat",
        {"eps": 0.09, "start": 0.5, "colour_space": "optical-density"},
        note="16/255 at a brightness of 0.7, as optical density",
    ),
    "staged-features": Arm(
        "scaat",
        {"eps": 0.25, "start": 0.5, "layer": "body.3"},
        note="the output of the first residual block is changed instead of the pixels",
    ),
    "scaat-amortised": Arm("scaat-amortised", {"eps": 32 / 255, **HARD, **FROM_THE_START}),
}
