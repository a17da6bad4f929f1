"""SCAAT, related methods and controls, pure torch: no files, no slides, no command line.

``SCAAT`` takes any classifier on images in [0, 1] and gives ``.perturb``, ``.loss`` and
``.training_step``; ``make_method`` builds it or a related method by name.

SCAAT here is a *reconstruction from the abstract* of Xu et al., "SCAAT: Improving Neural
Network Interpretability via Saliency Constrained Adaptive Adversarial Training" (BMVC 2023,
arXiv 2311.05143): the paper's equations and constants were not available to its authors.
Every doubtful point is an option of :class:`ScaatOptions`; no number of the paper is claimed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pathology_scaat.scaat.names import METHODS
from pathology_scaat.scaat.options import ScaatOptions

if TYPE_CHECKING:
    from pathology_scaat.scaat.methods import make_method
    from pathology_scaat.scaat.objective import MultiLabelObjective, Objective, SingleLabelObjective
    from pathology_scaat.scaat.scaat import SCAAT

_LAZY = {
    "SCAAT": "scaat",
    "make_method": "methods",
    "Objective": "objective",
    "SingleLabelObjective": "objective",
    "MultiLabelObjective": "objective",
}

__all__ = [
    "METHODS",
    "SCAAT",
    "MultiLabelObjective",
    "Objective",
    "ScaatOptions",
    "SingleLabelObjective",
    "make_method",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
