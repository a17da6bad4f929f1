"""Areas made valid, whatever was drawn."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry


def made_valid(geometry: BaseGeometry) -> BaseGeometry:
    """Make a geometry valid, covering the same area.

    Parameters
    ----------
    geometry : BaseGeometry
        Of any type, coordinates in pixels. It may cross itself.

    Returns
    -------
    BaseGeometry
        Valid; possibly of another type (a polygon that crosses itself becomes several). Where
        GEOS cannot repair it as it is (nearly flat rings, with points 1e-16 px apart), its
        corners are rounded to 0.01 px first, and parts without area are dropped.
    """
    try:
        return shapely.make_valid(geometry)
    except GEOSException:
        rounded = shapely.transform(geometry, lambda xy: np.round(xy, 2))
        return shapely.make_valid(rounded, method="structure", keep_collapsed=False)
