"""From a patch store and a model bundle to pixel saliency, and how good that saliency is.

Names are loaded on first use: importing this package imports neither torch nor zarr.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathology_scaat.saliency.config import ExplainConfig, ExplainResult
    from pathology_scaat.saliency.explain import explain_slide
    from pathology_scaat.saliency.store import SaliencyStore
    from pathology_scaat.saliency.store_writer import write_saliency_store

_HOMES = {
    "ExplainConfig": "config",
    "ExplainResult": "config",
    "explain_slide": "explain",
    "SaliencyStore": "store",
    "write_saliency_store": "store_writer",
}

__all__ = [
    "ExplainConfig",
    "ExplainResult",
    "SaliencyStore",
    "explain_slide",
    "write_saliency_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"pathology_scaat.saliency.{_HOMES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
