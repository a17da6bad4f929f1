"""Pictures of our own making: painted slides of ``scaat demo``, and maps, which are no slides."""

from __future__ import annotations

from dataclasses import replace

from pathology_scaat.slides.base import SlideInfo

MAP_BY = "pathology_scaat"
"""What stands in the TIFF tag Software of an exported map."""
OWN_MAP = "is a map that scaat exported, not a slide"
OF_OWN_MAP = "give the slide that it is of"
PAINTED_BY = "pathology_scaat demo"
"""What stands in the TIFF tag Software of a painted slide."""
_FAMILY = ", painted by scaat demo"
"""After the format family of a painted slide, which every artifact of it keeps."""
PAINTED_NOTE = "PAINTED by 'scaat demo': it shows no patient's tissue"
FIGURES_OF_PAINTED = (
    "These slides are painted and show no patient's tissue: the figures say nothing of real slides."
)
"""Beside the figures of a demo."""


def is_own_map(software: object) -> bool:
    """Whether a TIFF is a map of ours, by its tag Software."""
    return str(software or "").strip("\0 ") == MAP_BY


def as_painted(info: SlideInfo, software: object) -> SlideInfo:
    """The slide's description, which says so where ``software`` is that of the demo."""
    if str(software or "").strip("\0 ") != PAINTED_BY:
        return info
    return replace(info, vendor=info.vendor + _FAMILY, notes=(PAINTED_NOTE, *info.notes))


def is_painted(vendor: str) -> bool:
    """Whether a slide is painted, by the format family that an artifact records."""
    return vendor.endswith(_FAMILY)
