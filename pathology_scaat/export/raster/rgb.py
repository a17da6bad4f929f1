"""Colour rasters for viewers that read no values: a plain TIFF and a PNG of one pixel per tile.

The TIFF is for OpenSlide viewers (they see one level of an OME-TIFF, and no channels): RGB,
whole pyramid in ordinary pages, resolution tags. The PNG is for QuPath's image overlay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.export.raster.colour_scale import ColourScale, colourize
from pathology_scaat.export.raster.ome_tiff import (
    BUFFER_BYTES,
    SOFTWARE,
    TILE_PX,
    map_tiles,
    pyramid_levels,
)
from pathology_scaat.export.tiles import TileTable
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.source import SaliencySource

WHITE = 255


def _rgb_tiles(
    slide_map: SlideMap,
    channel: str,
    level: int,
    scale: ColourScale,
    shown: NDArray[np.bool_] | None,
) -> Iterator[NDArray[np.uint8]]:
    size = slide_map.size_px(level)
    windows = (
        (left, top)
        for top in range(0, size.height, TILE_PX)
        for left in range(0, size.width, TILE_PX)
    )
    for tile, (left, top) in zip(
        map_tiles(slide_map, (channel,), level, fill=np.nan), windows, strict=True
    ):
        rgba = colourize(tile, scale)
        rgba[np.isnan(tile), :3] = WHITE
        if shown is not None:
            # the pixels of the mask that lie under the tile's, whose edge may be filled up
            rows = (np.arange(top, top + TILE_PX) * shown.shape[0]) // size.height
            columns = (np.arange(left, left + TILE_PX) * shown.shape[1]) // size.width
            rows, columns = rows.clip(0, len(shown) - 1), columns.clip(0, shown.shape[1] - 1)
            rgba[~shown[np.ix_(rows, columns)], :3] = WHITE
        yield np.ascontiguousarray(rgba[..., :3])


def write_rgb_tiff(
    path: Path,
    slide_map: SlideMap,
    channel: str,
    scale: ColourScale,
    shown: NDArray[np.bool_] | None = None,
) -> None:
    """Write a channel in colour as a pyramidal TIFF that OpenSlide opens.

    White is no data, and what lies outside of ``shown`` ((H, W) of any size over the map's area):
    glass, and tissue that the model cannot judge.
    """
    with atomic_path(path) as partial, tifffile.TiffWriter(partial, bigtiff=True) as writer:
        for position, level in enumerate(pyramid_levels(slide_map)):
            size = slide_map.size_px(level)
            per_cm = 1e4 / (slide_map.mpp * 2**level)
            writer.write(
                _rgb_tiles(slide_map, channel, level, scale, shown),
                shape=(size.height, size.width, 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE_PX, TILE_PX),
                compression="deflate",
                predictor=True,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                software=SOFTWARE,
                subfiletype=1 if position else 0,
                metadata=None,
                maxworkers=1,
                buffersize=BUFFER_BYTES,
            )


def write_tile_png(
    path: Path,
    source: SaliencySource,
    table: TileTable,
    scale: ColourScale,
    unjudged: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Write an RGBA picture of one pixel a grid cell: colour and opacity by its probability.

    Tiles that are ``unjudged``, (N,), have no colour.

    Returns
    -------
    dict
        ``region_px``: level-0 box (x, y, width, height; fractional) that the picture covers,
        which may exceed the slide; ``vmax`` of its colours.
    """
    grid = source.meta.grid
    values = np.full((grid.n_rows, grid.n_cols), np.nan, np.float32)
    columns, rows = source.grid_index[:, 0], source.grid_index[:, 1]
    probability = table.probability[:, table.target_index]
    values[rows, columns] = np.where(
        np.zeros(len(table), dtype=bool) if unjudged is None else unjudged, np.nan, probability
    )
    rgba = colourize(values, scale)
    with atomic_path(path) as partial:
        Image.fromarray(rgba, "RGBA").save(partial, format="PNG")
    inset = max((grid.patch_size_level0_px - grid.step_level0_px) / 2, 0.0)
    return {
        "region_px": [
            grid.anchor_x_px + inset,
            grid.anchor_y_px + inset,
            grid.n_cols * grid.step_level0_px,
            grid.n_rows * grid.step_level0_px,
        ],
        "vmax": scale.vmax,
    }
