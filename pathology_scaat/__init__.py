"""pathology_scaat: from a folder of slides to slide-level saliency maps that open in QuPath."""

from __future__ import annotations

__version__ = "0.1.0"
