"""Bag learning: one label for all patches of a slide (multiple-instance learning), end to end.

Importing the package costs no torch; the modules that compute are imported when they are needed.
"""

from pathology_scaat.training.bags.config import POOLINGS, BagConfig, BagHeadConfig

__all__ = ["POOLINGS", "BagConfig", "BagHeadConfig"]
