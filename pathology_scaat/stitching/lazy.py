"""A slide map as a labelled lazy array: channels by name, coordinates in µm and in slide pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pathology_scaat.errors import StoreError
from pathology_scaat.stitching.ome_zarr import BLOCK_PX, level_array
from pathology_scaat.stitching.schema import SlideMapMeta
from pathology_scaat.system.extras import need
from pathology_scaat.training.bundle_quality import HeldOut

if TYPE_CHECKING:
    import tensorstore as ts


class LazyLevel:
    """A level of a map as the array-like that ``dask.array.from_array`` slices.

    Pickled it is a path, opened anew where it arrives.
    """

    def __init__(self, path: Path, level: int, ngff: str) -> None:
        self._state = (path, level, ngff)
        self._array: ts.TensorStore | None = level_array(path, level, ngff)
        self.shape = tuple(int(n) for n in self._array.shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        path = self._state[0]
        try:
            if self._array is None:
                self._array = level_array(*self._state)
            return np.asarray(self._array[key].read().result(), dtype=np.float32)
        except ValueError:
            raise StoreError(
                path.name, "holds pixels that cannot be decoded", "stitch again"
            ) from None


def map_to_dask(path: Path, level: int, ngff: str) -> Any:
    """A level of a map as a Dask array, (C, H, W) float32; no pixel is read."""
    import dask.array as da  # imported late: it takes half a second

    lazy = LazyLevel(path, level, ngff)
    chunks = (1, min(BLOCK_PX, lazy.shape[1]), min(BLOCK_PX, lazy.shape[2]))
    return da.from_array(lazy, chunks=chunks, name=False, asarray=False)


def model_attributes(model: dict[str, Any], fingerprint: str) -> dict[str, str]:
    """What an array carries of the model behind it: who made it, and how good it is."""
    held: HeldOut | None
    try:
        held = HeldOut.model_validate(model["held_out"]) if model.get("held_out") else None
    except ValidationError:
        held = None
    return {
        "model_fingerprint": fingerprint,
        "model_quality": held.text() if held else "not known: the model does not record it",
        "model_has_learnt_nothing": held.nothing_learnt if held else "",
        "slide_role": str(model.get("slide_role", "unknown")),
    }


def map_to_xarray(meta: SlideMapMeta, data: Any, level: int) -> Any:
    """A ``DataArray`` (c, y, x) around the values of a level.

    Parameters
    ----------
    meta : SlideMapMeta
    data : array, (C, H, W)
    level : int

    Notes
    -----
    ``x`` and ``y`` are µm from the slide's level-0 corner to the pixel's centre, ``x_px`` and
    ``y_px`` the same in level-0 pixels.
    """
    xarray = need("xarray", "xarray", "to_xarray")
    step, frame = meta.scale_px * 2**level, meta.frame_px
    y_px = frame.y + (np.arange(data.shape[1]) + 0.5) * step
    x_px = frame.x + (np.arange(data.shape[2]) + 0.5) * step
    um, px = {"units": "micrometer"}, {"units": "level-0 pixel"}
    return xarray.DataArray(
        data,
        dims=("c", "y", "x"),
        coords={
            "c": list(meta.channel_names),
            "y": ("y", y_px * meta.slide.mpp, um),
            "x": ("x", x_px * meta.slide.mpp, um),
            "y_px": ("y", y_px, px),
            "x_px": ("x", x_px, px),
        },
        name=meta.slide_id,
        attrs={
            "slide_id": meta.slide_id,
            "um_per_px": meta.mpp * 2**level,
            "level0_px_per_px": step,
            "slide_um_per_px": meta.slide.mpp,
            "frame_px": [frame.x, frame.y, frame.width, frame.height],
            "no_data": "NaN",
            "target_class": meta.target_class,
            "explained_by": meta.method,
            "formula": meta.formula,
            "map_fingerprint": meta.fingerprint,
            **model_attributes(meta.model, meta.model_fingerprint),
            "parameters": json.dumps({"stitch": meta.parameters, "explain": meta.explained}),
        },
    )
