"""Neighbours that a saliency map guides: SGT and the background attack.

References
----------
Ismail, Corrada Bravo, Feizi, "Improving deep learning interpretability by saliency guided
training" (NeurIPS 2021), arXiv 2111.14338. "Heatmap-guided explanation consistency", arXiv
2408.04600 (background of the explanation is attacked; read as abstract only, so what is here is
in its style, not a reproduction).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.scaat import SCAAT


def sgt(model: nn.Module, **options: Any) -> SCAAT:
    """Saliency Guided Training with |gradient|: the least salient half is filled at random.

    Loss ``CE(x) + lam KL(f(x) || f(x filled))`` without holding the clean prediction fixed.
    What is filled has no ``eps``, and giving one is a :class:`UsageError`.
    """
    if "eps" in options:
        raise UsageError(
            "eps", "says how far pixels are moved, and Saliency Guided Training replaces them",
            "leave it out",
        )  # fmt: skip
    return SCAAT(
        model,
        **{
            "fill": "random",
            "gamma": 0.0,
            "stop_gradient": False,
            "smooth_px": 1,
            "warmup": 0.0,
            "batch_norm": "shared",
            "start": 0.0,
            **options,
        },
    )


def background(model: nn.Module, **options: Any) -> SCAAT:
    """Attack the background of the Grad-CAM map on every second step.

    The published sample weight (one minus the explanation's consistency) is left out.
    """
    return SCAAT(
        model,
        **{
            "saliency": "gradcam",
            "loss": "ce",
            "every": 2,
            "mask_ratio": 0.5,
            "start": 0.0,
            **options,
        },
    )
