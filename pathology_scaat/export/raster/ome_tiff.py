"""The map as OME-TIFF, the raster that QuPath and Bio-Formats read with names and µm/px.

BigTIFF, tiles of 256 px, deflate, float32 channels as they are (NaN is no data), a pyramid in
SubIFDs, the pixel size in the OME-XML and in the resolution tags. Nothing in the file depends
on the machine or the time: tifffile's own UUID would hold the network card's address.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.export.qupath.geojson import NAMESPACE
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides.painted import MAP_BY
from pathology_scaat.stitching.slide_map import SlideMap

TILE_PX = 256
SMALLEST_LEVEL_PX = 512
BUFFER_BYTES = 8 << 20
ALONE_PX = 1 << 20
"""Pixels of a level up to which starting threads takes longer than what they save."""
SOFTWARE = MAP_BY


def pyramid_levels(slide_map: SlideMap) -> list[int]:
    """Map levels written: halved until both sides are below 512 px."""
    levels = [0]
    for level in range(1, slide_map.n_levels):
        last = slide_map.size_px(levels[-1])
        if max(last.width, last.height) < SMALLEST_LEVEL_PX:
            break
        levels.append(level)
    return levels


def map_tiles(
    slide_map: SlideMap, channels: Iterable[str], level: int, fill: float = 0.0
) -> Iterator[NDArray[np.float32]]:
    """Tiles of channels of a level, read in bands of a few tile rows; edges are filled up.

    Parameters
    ----------
    slide_map : SlideMap
    channels : iterable of str
    level : int
        Of the map's pyramid.
    fill : float
        Value beyond the map's right and lower edge.

    Yields
    ------
    (256, 256) float32
        :data:`TILE_PX` a side, channel by channel, row by row.
    """
    size = slide_map.size_px(level)
    rows = 4 * TILE_PX  # a row of shards: each is decoded once
    for channel in channels:
        for y in range(0, size.height, rows):
            box = BoxPx(0, y, size.width, min(rows, size.height - y))
            band = slide_map.read(channel, level, box)
            for top in range(0, box.height, TILE_PX):
                for left in range(0, box.width, TILE_PX):
                    tile = band[top : top + TILE_PX, left : left + TILE_PX]
                    if tile.shape != (TILE_PX, TILE_PX):
                        whole = np.full((TILE_PX, TILE_PX), fill, np.float32)
                        whole[: tile.shape[0], : tile.shape[1]] = tile
                        tile = whole
                    yield np.ascontiguousarray(tile)


def write_ome_tiff(path: Path, slide_map: SlideMap) -> None:
    """Write all channels of a map; memory is a band of one channel."""
    levels = pyramid_levels(slide_map)
    mpp = slide_map.mpp
    identity = uuid.uuid5(NAMESPACE, f"{slide_map.meta.fingerprint}/ome-tiff")
    metadata = {
        "axes": "CYX",
        "Name": slide_map.meta.slide_id,
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": list(slide_map.channel_names)},
        "UUID": f"urn:uuid:{identity}",
        "Creator": SOFTWARE,
    }
    with (
        atomic_path(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=True, ome=True) as writer,
    ):
        for position, level in enumerate(levels):
            size = slide_map.size_px(level)
            per_cm = 1e4 / (mpp * 2**level)
            writer.write(
                map_tiles(slide_map, slide_map.channel_names, level),
                shape=(len(slide_map.channel_names), size.height, size.width),
                dtype=np.float32,
                photometric="minisblack",
                tile=(TILE_PX, TILE_PX),
                compression="deflate",
                compressionargs={"level": 1},  # as small as level 6 on such floats, and faster
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                software=SOFTWARE,
                subifds=len(levels) - 1 if position == 0 else None,
                subfiletype=0 if position == 0 else 1,
                metadata=metadata if position == 0 else None,
                maxworkers=2 if size.width * size.height > ALONE_PX else 1,
                buffersize=BUFFER_BYTES,
            )
