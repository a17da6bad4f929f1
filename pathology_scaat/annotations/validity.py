"""Areas made valid, whatever was drawn."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry


def made_valid(geometry: BaseGeometry) -> BaseGeometry:
    """What a geometry in pixels covers, valid.

    Rings that are all but closed to a line (points 1e-16 apart) stop the usual method in some
    company; then they are put on a grid of 0.01 px, and the method that keeps areas only takes
    them.
    """
    try:
        return shapely.make_valid(geometry)
    except GEOSException:
        rounded = shapely.transform(geometry, lambda xy: np.round(xy, 2))
        return shapely.make_valid(rounded, method="structure", keep_collapsed=False)
