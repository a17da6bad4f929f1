"""What is known of a training method before it is relied on, in a sentence for who trains."""

from __future__ import annotations

from pathology_scaat.training.config import TrainConfig

_MEASURED: dict[str, str] = {
    "scaat-small": (
        "with this network (five seeds) maps inside patches of the one annotated real slide were "
        "surely worse than after plain training, those of two further sets of real patches not "
        "surely different, and AUC was lower in each seed on two of the three, higher on one"
    ),
    "resnet18": (
        "with this network (five seeds) gradient maps were better than after plain training on "
        "three sets of four, and worse on the one annotated real slide, where AUC fell by .03"
    ),
}
_TRANSFORMER = (
    "with one small transformer (five seeds) gradient maps were better than after plain training "
    "on two sets of four, and prediction worse on three"
)
_PRETRAINED = (
    "with one pretrained network (five seeds, two sets) gradient maps were better than after plain "
    "training on painted tumour, and worse on a real slide"
)
_BAGS = (
    "on labels of slides with this network (five seeds, painted slides) it gained about a "
    "hundredth of pixel AP over plain training, and lost no AUROC, where tumour is not rare; real "
    "slides were not measured"
)
_PRETRAINED_BAGS = (
    "on labels of slides with a pretrained network (five seeds, painted slides) a gain over plain "
    "training was not shown"
)
_UNKNOWN = "with this network it was not measured"
_VARIANT = "this variant of it was not measured with five seeds on real tissue"


def method_caution(config: TrainConfig, by_slide: bool, *, pretrained: bool = False) -> str:
    """What was measured of SCAAT with such a network; empty of other methods.

    Figures and settings: ``docs/concepts/evidence.md``.

    Parameters
    ----------
    config : TrainConfig
    by_slide : bool
        Whether labels of slides are learnt from.
    pretrained : bool
        Whether training goes on with a model; given weights are seen in ``config``.

    Examples
    --------
    >>> from pathology_scaat.training import TrainConfig
    >>> method_caution(TrainConfig(method="plain"), False)
    ''
    >>> method_caution(TrainConfig(backbone="resnet50"), False)[:65]
    'What SCAAT is known to do: with this network it was not measured.'
    """
    if not config.method.startswith("scaat"):
        return ""
    pretrained = pretrained or config.backbone_weights is not None
    if config.method != "scaat":
        found = _VARIANT
    elif by_slide:
        small = config.backbone == "scaat-small"
        found = _PRETRAINED_BAGS if pretrained else _BAGS if small else _UNKNOWN
    elif pretrained:
        found = _PRETRAINED
    elif config.backbone.startswith(("vit_", "deit")):
        found = _TRANSFORMER
    else:
        found = _MEASURED.get(config.backbone, _UNKNOWN)
    return (
        f"What SCAAT is known to do: {found}. Train by '--method plain' too before you rely on it"
    )
