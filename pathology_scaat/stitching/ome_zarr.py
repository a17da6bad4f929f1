"""The map as OME-Zarr on disk: NGFF 0.5 (zarr v3, sharded), or 0.4 for QuPath's reader.

zarr-python makes the arrays, TensorStore fills and reads them: it decodes the chunks of a band
in parallel and about seven times as fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from pathology_scaat.artifacts.zarr_folder import UnfinishedFolder, file_kvstore, group_attributes
from pathology_scaat.geometry import SizePx
from pathology_scaat.patches.schema import ATTRIBUTES_KEY
from pathology_scaat.stitching.schema import (
    COUNT_CHANNEL,
    SALIENCY_CHANNEL,
    UNLIKE_CHANNEL,
    SlideMapMeta,
)

CHUNK_PX = 256
BLOCK_PX = 1024
"""Side of a shard: what one task computes and is the only one to write."""
NGFF04_CHUNK_PX = 512
SMALLEST_LEVEL_PX = 256
_LAYOUT = "bioformats2raw.layout"
"""The pyramid ends where both sides of the map are at most this."""


def level_sizes(size_px: SizePx) -> list[SizePx]:
    """Sizes of the pyramid, halved and rounded up until both sides are small."""
    sizes = [size_px]
    while max(sizes[-1].width, sizes[-1].height) > SMALLEST_LEVEL_PX:
        last = sizes[-1]
        sizes.append(SizePx((last.width + 1) // 2, (last.height + 1) // 2))
    return sizes


def level_array(path: Path, level: int, ngff: str, *, write: bool = False) -> ts.TensorStore:
    """A level of a map, (C, H, W) float32.

    Raises
    ------
    ValueError
        If it is missing or damaged, as TensorStore says it.
    """
    driver, folder = ("zarr", path / "0") if ngff == "0.4" else ("zarr3", path)
    level_path = str((folder / str(level)).resolve())
    spec = {"driver": driver, "kvstore": file_kvstore(level_path)}
    return ts.open(spec, open=True, read=True, write=write).result()


def create_arrays(path: Path, n_channels: int, size_px: SizePx, ngff: str) -> None:
    """Make an OME-Zarr's empty pyramid: arrays "0", "1", ..., (C, H, W) float32, all NaN.

    Parameters
    ----------
    path : Path
        Folder of the OME-Zarr, not yet there; its metadata are written elsewhere.
    n_channels : int
        C.
    size_px : SizePx
        Of level 0; each further level halves it, rounded up.
    ngff : str
        ``0.5`` (Zarr v3, sharded) or ``0.4`` (Zarr v2, in the layout of bioformats2raw).
    """
    sizes = level_sizes(size_px)
    folder = UnfinishedFolder(path)
    if ngff == "0.5":
        group = zarr.create_group(folder, zarr_format=3)
        for level, size in enumerate(sizes):
            group.create_array(
                str(level),
                shape=(n_channels, size.height, size.width),
                chunks=(1, CHUNK_PX, CHUNK_PX),
                shards=(1, BLOCK_PX, BLOCK_PX),
                dtype="float32",
                # Blosc checks nothing: with the checksum a flipped bit is an error, not a value
                compressors=(
                    BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4),
                    Crc32cCodec(),
                ),
                fill_value=float("nan"),
                dimension_names=("c", "y", "x"),
            )
        return
    root = zarr.create_group(folder, zarr_format=2, attributes={_LAYOUT: 3})
    root.create_group("OME", attributes={"series": ["0"]})
    group = root.create_group("0")
    for level, size in enumerate(sizes):
        group.create_array(
            str(level),
            shape=(n_channels, size.height, size.width),
            chunks=(1, NGFF04_CHUNK_PX, NGFF04_CHUNK_PX),
            dtype="float32",
            # QuPath's reader knows blosc and zlib, not zarr's default zstd
            compressors=numcodecs.Blosc(cname="lz4", clevel=5, shuffle=1),
            fill_value=float("nan"),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )


def image_attributes(path: Path) -> tuple[dict[str, Any], str]:
    """The attributes of the multiscale group of a map, and its NGFF version.

    Raises
    ------
    OSError, ValueError, RecursionError
        If there is none, or its text is damaged.
    """
    attributes = group_attributes(path)
    if _LAYOUT in attributes:
        return group_attributes(path / "0"), "0.4"
    return attributes, "0.5"


def multiscale_attributes(meta: SlideMapMeta, ngff: str) -> dict[str, Any]:
    """NGFF metadata: axes, µm per pixel of each level, channel names and display ranges."""
    datasets = []
    for level in range(meta.n_levels):
        pixel_um = meta.mpp * 2**level
        # a coarse pixel's centre lies half a fine pixel further in at each level
        shift_um = (2**level - 1) / 2 * meta.mpp
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, pixel_um, pixel_um]},
                    {"type": "translation", "translation": [0.0, shift_um, shift_um]},
                ],
            }
        )
    multiscale: dict[str, Any] = {
        "name": meta.slide_id,
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": datasets,
        "type": "mean of the pixels that have data",
    }
    omero = {"channels": [_omero_channel(meta, name) for name in meta.channel_names]}
    if ngff == "0.5":
        return {"ome": {"version": "0.5", "multiscales": [multiscale], "omero": omero}}
    return {"multiscales": [{"version": "0.4", **multiscale}], "omero": {**omero, "version": "0.4"}}


def _omero_channel(meta: SlideMapMeta, name: str) -> dict[str, Any]:
    found = meta.statistics.get(name)
    top = 1.0
    if name == COUNT_CHANNEL and found:
        top = max(found.maximum, 1.0)
    elif name == UNLIKE_CHANNEL:
        top = 100.0
    elif found and name.startswith(SALIENCY_CHANNEL):
        top = found.q995 or found.maximum or 1.0
    return {
        "label": name,
        "color": "FFFFFF",
        "active": name != COUNT_CHANNEL,
        "window": {"min": 0.0, "max": max(top, found.maximum if found else top),
                   "start": 0.0, "end": top},
    }  # fmt: skip


def attributes_file(ngff: str) -> str:
    """The file of a map that holds its attributes."""
    return "0/.zattrs" if ngff == "0.4" else "zarr.json"


def write_attributes(path: Path, meta: SlideMapMeta, ngff: str) -> None:
    """Write NGFF and own metadata; for 0.4 also the bioformats2raw layout QuPath needs."""
    own = {ATTRIBUTES_KEY: meta.to_attributes()}
    if ngff == "0.5":
        group = zarr.open_group(path, mode="r+", zarr_format=3)
        group.attrs.update({**multiscale_attributes(meta, ngff), **own})
        return
    zarr.open_group(path / "0", mode="r+", zarr_format=2).attrs.update(
        {**multiscale_attributes(meta, ngff), **own}
    )
    (path / "OME" / "METADATA.ome.xml").write_text(ome_xml(meta), encoding="utf-8")


def ome_xml(meta: SlideMapMeta) -> str:
    """OME-XML of the bioformats2raw layout: pixel size and channel names for QuPath."""
    channels = "".join(
        f'<Channel ID="Channel:0:{i}" Name={quoteattr(name)} SamplesPerPixel="1"/>'
        for i, name in enumerate(meta.channel_names)
    )
    size, mpp = meta.size_px, meta.mpp
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0" Name={quoteattr(meta.slide_id)}>'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="float" BigEndian="false" '
        f'SizeX="{size.width}" SizeY="{size.height}" SizeZ="1" '
        f'SizeC="{len(meta.channel_names)}" SizeT="1" '
        f'PhysicalSizeX="{mpp!r}" PhysicalSizeXUnit="µm" '
        f'PhysicalSizeY="{mpp!r}" PhysicalSizeYUnit="µm">'
        f"{channels}<MetadataOnly/></Pixels></Image></OME>\n"
    )


def halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of 2 x 2 pixels that have data, (H, W) to (ceil(H/2), ceil(W/2)); NaN where none has."""
    height, width = values.shape
    if height % 2 or width % 2:
        padded = np.full((height + height % 2, width + width % 2), np.nan, np.float32)
        padded[:height, :width] = values
        values = padded
    has_none = np.isnan(values)
    if has_none.all():
        return np.full((values.shape[0] // 2, values.shape[1] // 2), np.nan, np.float32)
    total = np.zeros((values.shape[0] // 2, values.shape[1] // 2), np.float64)
    if not has_none.any():  # as below, in a third of the time
        for dy in (0, 1):
            for dx in (0, 1):
                total += values[dy::2, dx::2]
        return (total / 4).astype(np.float32)
    count = np.zeros(total.shape, np.uint8)
    for dy in (0, 1):
        for dx in (0, 1):
            held = ~has_none[dy::2, dx::2]
            total += np.where(held, values[dy::2, dx::2], np.float32(0))
            count += held
    out = total / np.maximum(count, 1)
    out[count == 0] = np.nan
    return out.astype(np.float32)


def halve_rows(fine: ts.TensorStore, coarse: ts.TensorStore, top: int) -> None:
    """Fill one row of shards of a level, from row ``top`` on, from the level below it."""
    n_channels, height, width = coarse.shape
    fine_height, fine_width = fine.shape[1:]
    bottom = min(top + BLOCK_PX, height)
    rows = slice(2 * top, min(2 * bottom, fine_height))
    for channel in range(n_channels):
        for x in range(0, width, BLOCK_PX):
            right = min(x + BLOCK_PX, width)
            block = fine[channel, rows, 2 * x : min(2 * right, fine_width)].read().result()
            coarse[channel, top:bottom, x:right].write(halve(block)).result()
