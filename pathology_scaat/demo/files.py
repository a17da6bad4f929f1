"""The demo's files: pyramidal slides that every viewer opens, and annotations for QuPath."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from skimage.measure import find_contours

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.slides.painted import PAINTED_BY

TILE_PX = 256
JPEG_QUALITY = 88
COLOURS = {"Tumor": (200, 0, 0), "Normal": (0, 140, 60)}
_NAMESPACE = uuid.UUID("5b1f6a8e-7c3d-5e19-9f55-2d6f7d2b9a10")


def _halved(rgb: RgbImage, times: int) -> RgbImage:
    """Mean of blocks of 2^times pixels; odd rests are cut, as scanners do."""
    factor = 2**times
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    total = np.zeros((height, width, 3), dtype=np.uint16)
    cut = rgb[: height * factor, : width * factor]
    for row in range(factor):
        for col in range(factor):
            total += cut[row::factor, col::factor]
    mean: RgbImage = ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)
    return mean


def write_slide(path: Path, rgb: RgbImage, mpp: float, aperio: bool) -> None:
    """Write a pyramidal, tiled JPEG TIFF (levels 1, 4, 16), byte for byte the same each time.

    With ``aperio`` it is an Aperio-style file whose µm/px stands in the description;
    otherwise a generic TIFF whose µm/px stands in the resolution tags. Its tag Software says that
    it is painted.
    """
    levels = [rgb]
    while min(levels[-1].shape[:2]) > 512 and len(levels) < 4:
        levels.append(_halved(levels[-1], 2))
    per_cm = 10_000 / mpp
    with atomic_path(path) as partial, tifffile.TiffWriter(partial, bigtiff=False) as tiff:
        for index, level in enumerate(levels):
            height, width = level.shape[:2]
            scale = 4**index
            description = None
            if aperio:
                power = round(10 / mpp / 10) * 10
                description = (
                    f"Aperio Image Library v12.0.0 \r\n{rgb.shape[1]}x{rgb.shape[0]} "
                    f"[0,0 {width}x{height}] ({TILE_PX}x{TILE_PX}) JPEG/RGB "
                    f"Q={JPEG_QUALITY}|AppMag = {power}|MPP = {mpp:.4f}"
                )
            tiff.write(
                level,
                photometric="rgb",
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                subfiletype=0 if index == 0 or aperio else 1,
                resolution=(per_cm / scale, per_cm / scale),
                resolutionunit="CENTIMETER",
                description=description,
                metadata=None,
                software=PAINTED_BY,
            )


def mask_polygons(
    mask: NDArray[np.bool_], scale_px: float, simplify_px: float, min_area_px: float
) -> Iterator[Any]:
    """Polygons, in slide pixels, around the True parts of a mask; holes are kept.

    Parameters
    ----------
    mask : ndarray, (h, w) bool
    scale_px : float
        Slide pixels per mask pixel.
    simplify_px : float
        How far, in slide pixels, an outline may move when it is simplified.
    min_area_px : float
        Smallest area that is given, in square slide pixels.
    """
    padded = np.pad(mask.astype(np.float32), 1)
    rings = []
    for contour in find_contours(padded, 0.5):
        if len(contour) >= 4:
            # Pixel centres: index 1 of the padded mask is the middle of the first pixel.
            rings.append(shapely.Polygon((contour[:, ::-1] - 0.5) * scale_px))
    area: Any = shapely.Polygon()
    for ring in sorted(rings, key=lambda r: -r.area):
        area = area.symmetric_difference(ring if ring.is_valid else ring.buffer(0))
    area = shapely.make_valid(area.simplify(simplify_px))
    for part in shapely.get_parts(area):
        if part.geom_type == "Polygon" and part.area >= min_area_px:
            yield part


def write_annotations(
    path: Path, slide_id: str, areas: Sequence[tuple[str, str, Any]], size_px: int
) -> None:
    """Write (class, name, polygon) as a GeoJSON that QuPath opens, locked annotations."""

    def ring(points: Any) -> list[list[float]]:
        values = np.clip(np.round(np.asarray(points.coords), 1), 0, size_px)
        return [[float(x), float(y)] for x, y in values]

    features = []
    for index, (class_name, name, polygon) in enumerate(areas):
        key = f"{slide_id}/{class_name}/{name}/{index}"
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, key)),
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [ring(polygon.exterior), *map(ring, polygon.interiors)],
                },
                "properties": {
                    "objectType": "annotation",
                    "name": name,
                    "isLocked": True,
                    "classification": {"name": class_name, "color": list(COLOURS[class_name])},
                },
            }
        )
    with atomic_path(path) as partial:
        text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
