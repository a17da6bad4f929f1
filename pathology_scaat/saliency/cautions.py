"""What is to be known of a map before it is trusted, whichever slide it is of."""

from __future__ import annotations

MISSED = frozenset(
    {
        "gradient", "gradient-x-input", "gradient-grid", "gradient-blurred", "smoothgrad",
        "integrated-gradients", "lrp", "occlusion", "rise",
    }
)  # fmt: skip
"""Methods whose maps of the pretrained network that was measured lay on the tumour of a real slide
as by chance or less (``benchmarks/evidence/attribution_located.py``).

Those by fused-cam, grad-cam, grad-cam++ and advise lay on it. Of methods that did not take that
network, and of other packages', nothing is known.
"""


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


def map_caution(began: str, method: str) -> str:
    """Why a map may lie beside what the model looks at; empty where nothing is known against it.

    Parameters
    ----------
    began : str
        What the network was before its training, in words
        (:attr:`~pathology_scaat.training.bundle_config.BundleConfig.began`).
    method : str
        Attribution method of the map.

    Examples
    --------
    >>> map_caution("", "gradient")
    ''
    >>> map_caution("its training began with the weights of another one", "grad-cam")
    ''
    """
    if not began or method not in MISSED:
        return ""
    return (
        f"Inside a patch, maps by '{method}' may miss the tumour ({began}): of the one pretrained "
        "network that was measured they lay on the tumour of a real slide hardly more than chance "
        "does, or less; those by fused-cam, grad-cam and advise lay on it (--method)"
    )
