"""What is to be known of a map before it is trusted, whichever slide it is of."""

from __future__ import annotations

MISSED = frozenset(
    {
        "gradient", "gradient-x-input", "gradient-grid", "gradient-blurred", "smoothgrad",
        "integrated-gradients", "lrp", "occlusion", "rise",
    }
)  # fmt: skip
"""Methods whose maps of the networks that were measured lay on the tumour of a real slide as by
chance, little more or less (``benchmarks/evidence/attribution_located.py``).

Of methods that did not take those networks, and of other packages', nothing is known.
"""

_CONVOLUTIONAL = (("scaat-small", "efficientnet_lite0"), "scaat-small and EfficientNet-Lite0")
FOUND: dict[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(("fused-cam", "grad-cam", "grad-cam++", "advise"), _CONVOLUTIONAL),
    "token-cam": ((), "a small transformer without pretraining"),
}
"""Methods whose maps lay on the tumour of real tissue: of which networks that was measured (how
their names end), in words."""

_MEANINGS = (
    (
        ("gradient", "gradient-x-input", "gradient-grid", "gradient-blurred", "smoothgrad",
         "integrated-gradients", "token-gradient-x-input"),
        "how strongly a pixel moves the model's score of {}",
    ),
    (
        ("fused-cam", "token-cam", "grad-cam", "grad-cam++", "advise"),
        "where in the patch the model's score of {} comes from, by the activation of its layers",
    ),
    (("lrp", "attn-lrp"), "what share of the model's score of {} a pixel is given"),
    (("attention-rollout",), "where the attention that helps {} goes to"),
    (("occlusion", "rise"), "how the model's score of {} changes where a pixel is hidden"),
)  # fmt: skip


def meaning_of(method: str, class_name: str) -> str:
    """What a map's value at a pixel is, in words.

    Examples
    --------
    >>> meaning_of("gradient", "Tumor")
    "how strongly a pixel moves the model's score of Tumor"
    >>> meaning_of("another-package's", "Tumor")
    "what 'another-package's' says of Tumor"
    """
    for methods, words in _MEANINGS:
        if method in methods:
            return words.format(class_name)
    return f"what '{method}' says of {class_name}"


def map_caution(began: str, method: str, backbone: str = "", of_slides: bool = False) -> str:
    """Why a map may lie beside what the model looks at; empty where nothing is known against it.

    Parameters
    ----------
    began : str
        What the network was before its training, in words
        (:attr:`~pathology_scaat.training.bundle_config.BundleConfig.began`).
    method : str
        Attribution method of the map.
    backbone : str
        Name of the network; empty where it is not recorded.
    of_slides : bool
        Whether the model learnt from labels of slides. Of such models that began at random, the
        gradient's maps are better than class activation (painted slides), and where they lie in
        real tissue was not measured.

    Examples
    --------
    >>> map_caution("", "fused-cam", "scaat-small")
    ''
    >>> map_caution("its training began with the weights of another one", "grad-cam")
    ''
    >>> map_caution("", "fused-cam", "resnet50")[:60]
    "Where inside a patch maps by 'fused-cam' lie was measured of"
    """
    if method in MISSED and (began or not of_slides):
        because = f" ({began})" if began else ""
        networks = "one pretrained network" if began else "a small network"
        more = "hardly" if began else "little"
        return (
            f"Inside a patch, maps by '{method}' may miss the tumour{because}: of {networks} that "
            f"was measured they lay on the tumour of a real slide {more} more than chance does, or "
            "less; those by fused-cam, grad-cam and advise lay on it (--method; of transformers "
            "token-cam)"
        )
    known, words = FOUND.get(method, ((), ""))
    if words and backbone and not backbone.endswith(known):
        ask = "" if of_slides else ": 'scaat evaluate' measures it of this model"
        return (
            f"Where inside a patch maps by '{method}' lie was measured of {words}, not of "
            f"'{backbone}'{ask}"
        )
    return ""
