"""Reading a slide map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.patches.schema import ATTRIBUTES_KEY
from pathology_scaat.stitching.lazy import map_to_dask, map_to_xarray
from pathology_scaat.stitching.ome_zarr import image_attributes, level_array
from pathology_scaat.stitching.schema import SlideMapMeta
from pathology_scaat.system.representation import THUMBNAIL_PX, Described, grey, shrunk


class SlideMap(Described):
    """A stitched map, read lazily.

    Parameters
    ----------
    path : str or Path
        The OME-Zarr folder.

    Raises
    ------
    StoreError
        If it is missing, partial or of another schema.

    Examples
    --------
    With ``out`` the folder of a run:

    >>> import pathology_scaat as ps
    >>> slide_map = ps.SlideMap(out / "maps" / "s1.ome.zarr")
    >>> [name for name in slide_map.channel_names if "tumour" in name]
    ['probability: tumour', 'evidence: tumour']
    >>> slide_map.read("evidence: tumour").ndim
    2
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        try:
            found, self.ngff = image_attributes(path)
            attributes = found.get(ATTRIBUTES_KEY)
            if not isinstance(attributes, dict):
                raise KeyError(ATTRIBUTES_KEY)
            self.meta = SlideMapMeta.from_attributes(dict(attributes), path.name)
            levels = range(self.meta.n_levels)
            self._levels = [level_array(path, level, self.ngff) for level in levels]
        except StoreError:
            raise
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise StoreError(
                path.name, "is missing or not a slide map", "make it with 'scaat stitch'"
            ) from None
        self.name = path.name
        self.path = path

    def _title(self) -> str:
        return self.meta.slide_id

    def _facts(self) -> dict[str, str]:
        size = self.size_px()
        return {
            "size": f"{size.width:,} x {size.height:,} px at {self.mpp:g} µm/px",
            "channels": ", ".join(self.channel_names),
            "levels": str(self.n_levels),
        }

    def _thumbnail(self) -> NDArray[np.uint8] | None:
        return shrunk(grey(self.read(0, self.level_for(THUMBNAIL_PX))))

    @property
    def channel_names(self) -> tuple[str, ...]:
        return self.meta.channel_names

    @property
    def scale_px(self) -> float:
        """Level-0 slide pixels per map pixel of map level 0."""
        return self.meta.scale_px

    @property
    def mpp(self) -> float:
        """µm per map pixel of map level 0."""
        return self.meta.mpp

    @property
    def frame_px(self) -> BoxPx:
        """The level-0 box of the slide that the map covers."""
        return self.meta.frame_px

    @property
    def n_levels(self) -> int:
        return self.meta.n_levels

    def size_px(self, level: int = 0) -> SizePx:
        _, height, width = self._levels[level].shape
        return SizePx(width, height)

    def level_scale_px(self, level: int) -> float:
        """Level-0 slide pixels per map pixel of a map level."""
        return self.scale_px * float(1 << level)

    def level_for(self, max_px: int) -> int:
        """The finest level of which neither side is longer than ``max_px`` (else the last)."""
        for level in range(self.n_levels):
            size = self.size_px(level)
            if max(size.width, size.height) <= max_px:
                return level
        return self.n_levels - 1

    def channel_index(self, channel: str | int) -> int:
        """Number of a channel that is given by name, or by number.

        Raises
        ------
        UsageError
            If there is no such channel.
        """
        if isinstance(channel, int) and 0 <= channel < len(self.channel_names):
            return channel
        if channel in self.channel_names:
            return self.channel_names.index(str(channel))
        raise UsageError(
            f"channel '{channel}'",
            f"{self.name} does not hold it",
            f"choose one of {', '.join(self.channel_names)}",
        )

    def read(
        self, channel: str | int, level: int = 0, box: BoxPx | None = None
    ) -> NDArray[np.float32]:
        """Values of one channel, (h, w) float32, NaN where there is no data.

        ``box`` is in map pixels of ``level``, its corner inside, cut at the right and lower edge;
        None reads the whole level.

        Raises
        ------
        UsageError
            If there is no such channel.
        StoreError
            If the pixels are damaged.
        """
        array = self._levels[level][self.channel_index(channel)]
        if box is not None:
            height, width = array.shape
            array = array[box.y : min(box.bottom, height), box.x : min(box.right, width)]
        try:
            return np.asarray(array.read().result(), dtype=np.float32)
        except ValueError:
            raise StoreError(
                self.name, "holds pixels that cannot be decoded", "stitch again"
            ) from None

    def to_dask(self, level: int = 0) -> Any:
        """A level as a lazy Dask array, (C, H, W) float32, NaN where there is no data."""
        return map_to_dask(self.path, level, self.ngff)

    def to_xarray(self, level: int = 0) -> Any:
        """A level as a lazy ``xarray.DataArray`` (needs the extra ``xarray``).

        Parameters
        ----------
        level : int
            Pyramid level; each is half the size of the one before.

        Returns
        -------
        xarray.DataArray, (c, y, x) float32
            ``c`` are names of channels; ``x`` and ``y`` are in µm from the slide's level-0 corner
            to the pixel's centre, ``x_px`` and ``y_px`` in level-0 pixels. NaN is no data. The
            attributes name the model, how good it is and the scale.

        Raises
        ------
        UsageError
            If there is no such level, or xarray is not installed.
        """
        if not 0 <= level < self.n_levels:
            raise UsageError(
                f"level {level}", f"{self.name} has {self.n_levels}", "levels begin at 0"
            )
        return map_to_xarray(self.meta, self.to_dask(level), level)


def open_map(path: str | Path) -> SlideMap:
    """Open the stitched map of a slide, ``OUT/maps/<id>.ome.zarr``; pixels are read when asked for.

    Raises
    ------
    StoreError
        If it is missing, partial or of another schema.
    """
    return SlideMap(path)
