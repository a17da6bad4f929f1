"""A patch store as a labelled lazy data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.patches.schema import SlideGeometry
from pathology_scaat.system.extras import need

if TYPE_CHECKING:
    from pathology_scaat.patches.reader import PatchStore


def picked(read: Callable[[Any], NDArray[Any]], key: tuple[Any, ...]) -> NDArray[Any]:
    """What a key of numpy's kind means where reading takes patches alone: a number drops an axis.

    Parameters
    ----------
    read : callable
        Given a slice or indices of n patches, their whole arrays, (n, ...).
    key : tuple
        One entry an axis, as ``dask.array`` gives them.

    Returns
    -------
    ndarray
        Of any shape: what numpy's indexing with that key would give.
    """
    first, *rest = key
    if isinstance(first, int | np.integer):
        one: NDArray[Any] = read(slice(int(first), int(first) + 1))[(0, *rest)]
        return one
    return read(first)[(slice(None), *rest)]


def patch_coordinates(
    origins_px: NDArray[np.integer], grid_index: NDArray[np.integer], slide: SlideGeometry
) -> dict[str, Any]:
    """Coordinates along ``patch``: the top-left corner in µm and level-0 pixels, and the cell.

    Parameters
    ----------
    origins_px : (N, 2) int
        Level-0 x, y.
    grid_index : (N, 2) int
        Column, row.
    slide : SlideGeometry
        Its µm/px makes µm of pixels.
    """
    um, px = {"units": "micrometer"}, {"units": "level-0 pixel"}
    return {
        "x": ("patch", origins_px[:, 0] * slide.mpp, um),
        "y": ("patch", origins_px[:, 1] * slide.mpp, um),
        "x_px": ("patch", origins_px[:, 0], px),
        "y_px": ("patch", origins_px[:, 1], px),
        "column": ("patch", grid_index[:, 0]),
        "row": ("patch", grid_index[:, 1]),
    }


def patches_to_xarray(store: PatchStore) -> Any:
    """A ``Dataset`` of a store's pixels (lazy) and its small arrays."""
    xarray = need("xarray", "xarray", "to_xarray")
    meta = store.meta
    data: dict[str, Any] = {
        "patches": (("patch", "row_px", "column_px", "rgb"), store.patches),
        "tissue_fraction": ("patch", store.tissue_fraction),
        "label": ("patch", store.labels, {"meaning": "index into class; -1: undecided"}),
    }
    coords = {
        **patch_coordinates(store.origins_px, store.grid_index, meta.slide),
        "rgb": list("RGB"),
    }
    if meta.class_names:
        data["label_coverage"] = (("patch", "class"), store.label_coverage)
        coords["class"] = list(meta.class_names)
    return xarray.Dataset(
        data,
        coords,
        {
            "slide_id": meta.slide_id,
            "um_per_px": meta.effective_mpp,
            "level0_px_per_px": meta.grid.scale,
            "slide_um_per_px": meta.slide.mpp,
            "store_fingerprint": meta.fingerprint,
        },
    )
