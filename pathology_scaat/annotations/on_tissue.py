"""Whether annotated areas lie where the tissue is: of another slide or level, they seldom do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.annotations.classes import match_class, with_classes
from pathology_scaat.annotations.model import LabelledPolygon
from pathology_scaat.annotations.rasterize import area_mask
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.system.rounding import percent

MIN_ON_TISSUE = 0.5
"""A class with less of its annotated area on tissue is told."""

OFF_TISSUE = "of the area annotated as"
"""How such a sentence begins; an evaluation by these annotations repeats it."""

MIN_CELLS = 8
"""Areas that hold the middles of fewer cells of the grid say nothing."""

_MOST_AREAS = 5000


def off_tissue_notes(
    polygons: Sequence[LabelledPolygon],
    class_names: Sequence[str],
    grid: PatchGrid,
    index: NDArray[np.integer[Any]],
) -> tuple[str, ...]:
    """A sentence for each class of whose annotated area less than half is tissue.

    Parameters
    ----------
    polygons : sequence of LabelledPolygon
        The areas of a file, level-0 pixels.
    class_names : sequence of str
        Classes asked for.
    grid : PatchGrid
        The slide's grid; a cell counts for an area if its middle lies in it.
    index : (N, 2) int
        Column and row of each cell that holds tissue.
    """
    side, step = grid.patch_size_level0_px, grid.step_level0_px
    corner = (grid.anchor_x_px + (side - step) / 2, grid.anchor_y_px + (side - step) / 2)
    shape = (grid.n_rows, grid.n_cols)
    tissue = np.zeros(shape, dtype=bool)
    tissue[index[:, 1], index[:, 0]] = True
    drawn = sorted(with_classes(polygons, class_names), key=lambda p: -p.geometry.area)
    owners = [match_class(p.class_name, class_names) for p in drawn[:_MOST_AREAS]]
    notes = []
    for number, name in enumerate(class_names):
        own = [p.geometry for p, owner in zip(drawn, owners, strict=False) if owner == number]
        inside = area_mask(own, corner, step, shape)
        if np.count_nonzero(inside) < MIN_CELLS or not tissue.any():
            continue
        share = float(tissue[inside].mean())
        if share < MIN_ON_TISSUE:
            notes.append(
                f"{OFF_TISSUE} '{name}' {_part(share)} is tissue: was it drawn on "
                "another slide, or at another level?"
            )
    return tuple(notes)


def _part(share: float) -> str:
    return "nothing" if share == 0 else f"only {percent(share)}".replace("only less", "less")
