"""pathology_scaat: from a folder of slides to slide-level saliency maps that open in QuPath.

The names below are imported when they are first used, so that ``import pathology_scaat`` is
light::

    import pathology_scaat as ps

    slide = ps.open_slide("slides/a.svs")
    ps.run(ps.RunConfig(manifest="cohort.csv", out="out"))
    patches = ps.PatchStore("out/patches/a.zarr")
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pathology_scaat.system.home import ensure_home

if TYPE_CHECKING:
    from pathology_scaat.patches import PatchStore as PatchStore
    from pathology_scaat.pipeline.config import RunConfig as RunConfig
    from pathology_scaat.pipeline.explain import explain as explain
    from pathology_scaat.pipeline.run import run as run
    from pathology_scaat.pipeline.stitch import stitch as stitch
    from pathology_scaat.pipeline.tile import tile as tile
    from pathology_scaat.pipeline.train import train as train
    from pathology_scaat.saliency import SaliencyStore as SaliencyStore
    from pathology_scaat.scaat import SCAAT as SCAAT
    from pathology_scaat.slides.opening import open_slide as open_slide
    from pathology_scaat.stitching import SlideMap as SlideMap
    from pathology_scaat.stitching import open_map as open_map
    from pathology_scaat.training import load_bundle as load_bundle

__version__ = "0.2.0"

# Before anything else is imported: without a home or a user's name some libraries fail at that.
ensure_home()

# A library stays silent unless its user asks for its log.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_PUBLIC = {
    "open_slide": "slides.opening",
    "tile": "pipeline.tile",
    "train": "pipeline.train",
    "explain": "pipeline.explain",
    "stitch": "pipeline.stitch",
    "run": "pipeline.run",
    "RunConfig": "pipeline.config",
    "PatchStore": "patches",
    "SaliencyStore": "saliency",
    "SlideMap": "stitching",
    "open_map": "stitching",
    "SCAAT": "scaat",
    "load_bundle": "training",
}
_EXPORT = "export"

__all__ = sorted([*_PUBLIC, _EXPORT])


class _ExportPackage(ModuleType):
    """``pathology_scaat.export`` is both the package and, called, the pipeline step."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("pathology_scaat.pipeline.export").export(*args, **kwargs)


class _Package(ModuleType):
    """This package; makes its ``export`` callable as soon as Python has imported it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == _EXPORT and type(value) is ModuleType:
            value.__class__ = _ExportPackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == _EXPORT:
        return import_module("pathology_scaat.export")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pathology_scaat.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
