"""pathology_scaat: from a folder of slides to slide-level saliency maps that open in QuPath."""

from __future__ import annotations

import logging

__version__ = "0.1.0"

# A library stays silent unless its user asks for its log.
logging.getLogger(__name__).addHandler(logging.NullHandler())
