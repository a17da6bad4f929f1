"""QuPath GeoJSON, written feature by feature.

Tiles are detections with measurements (fast in QuPath, a measurement map at a click), regions
are locked annotations. Identifiers are made from the slide and an object's position, so that the
import script replaces what the last overlay, of this or another model, put there. (Dragging a
file onto a slide twice does double it: QuPath gives new ids, or adds the same ones again.) The
text is the same for the same input, to the byte.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.qupath.palette import (
    CONTRIBUTES_LITTLE,
    LEARNT_NOTHING,
    REGION_COLOUR,
    UNLIKE_TRAINING,
    QuPathClass,
    region_names,
)
from pathology_scaat.export.qupath.regions import RegionSet
from pathology_scaat.export.tiles import TileTable

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pathology_scaat")
FEATURES_A_WRITE = 2000
LARGEST = 1e300
"""Measurements beyond it are left out, as NaN is: rounded, a larger one may be infinite."""
TILES_A_BATCH = 10_000


def object_id(*parts: object) -> str:
    """UUID (version 5) of an object that is what its parts say."""
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


def number(value: float) -> str:
    """A finite number in five significant digits, as JSON."""
    return f"{value:.5g}"


def measurement_name(text: str) -> str:
    return f"SCAAT: {text}"


def _measurements(pairs: Iterable[tuple[str, float]]) -> str:
    return ",".join(f"{name}:{number(value)}" for name, value in pairs if abs(value) <= LARGEST)


def tile_features(
    table: TileTable,
    chosen: NDArray[np.int64],
    classes: tuple[QuPathClass, ...],
    frame: ExportFrame,
    key: str,
    unjudged: NDArray[np.bool_] | None = None,
    has_learnt: bool = True,
) -> Iterator[str]:
    """One JSON text per tile; tiles that clipping to the frame leaves empty are left out.

    ``chosen``, (n,), are rows of the table's N tiles. ``unjudged``, (N,), are tiles that get no
    class of the model, since they are unlike what it was trained on; their measurements say all the
    same what it made of them. Nor do tiles that contribute little to what a model of whole slides
    says: which class they are above even of means nothing. With ``has_learnt`` False none gets a
    class of the model: its classes mean nothing.
    """
    names = [json.dumps(measurement_name(f"{c.name} probability")) for c in classes]
    mean_name = json.dumps(measurement_name("Saliency mean"))
    max_name = json.dumps(measurement_name("Saliency max"))
    more = [mean_name, max_name, *(json.dumps(measurement_name(name)) for name, _ in table.more)]
    looks = [
        json.dumps({"name": c.name, "color": list(c.colour)}, separators=(",", ":"))
        for c in (*classes, CONTRIBUTES_LITTLE, UNLIKE_TRAINING, LEARNT_NOTHING)
    ]
    little = table.little
    for start in range(0, len(chosen), TILES_A_BATCH):  # Python numbers for a batch at a time
        part = chosen[start : start + TILES_A_BATCH]
        boxes = frame.boxes(table.edges_px[part]).tolist()
        edges = table.edges_px[part].tolist()
        probability = table.probability[part]
        classed = np.argmax(probability, axis=1)
        classed[little[part]] = len(classes)
        if unjudged is not None:
            classed[unjudged[part]] = len(classes) + 1
        if not has_learnt:
            classed[:] = len(classes) + 2
        best = classed.tolist()
        columns = [probability, table.saliency_mean[part], table.saliency_max[part]]
        scores = np.column_stack([*columns, *(values[part] for _, values in table.more)]).tolist()
        for (left, top, right, bottom), (x, y, x1, y1), k, values in zip(
            boxes, edges, best, scores, strict=True
        ):
            if left >= right or top >= bottom:
                continue
            pairs = zip([*names, *more], values, strict=True)
            yield (
                f'{{"type":"Feature","id":"{object_id(key, "tile", x, y, x1 - x, y1 - y)}",'
                f'"geometry":{{"type":"Polygon","coordinates":[[[{left},{top}],[{right},{top}],'
                f"[{right},{bottom}],[{left},{bottom}],[{left},{top}]]]}},"
                f'"properties":{{"objectType":"tile","classification":{looks[k]},'
                f'"measurements":{{{_measurements(pairs)}}}}}}}'
            )


def polygon_geometry(polygon: Polygon) -> dict[str, object]:
    """GeoJSON of a polygon with its holes, coordinates to two decimals."""
    rings = [polygon.exterior, *polygon.interiors]
    return {
        "type": "Polygon",
        "coordinates": [np.round(np.asarray(ring.coords)[:, :2], 2).tolist() for ring in rings],
    }


def outline_text(polygon: Polygon) -> str:
    """Area and box of an outline as it was exported: QuPath's script sees by it what was edited."""
    x0, y0, x1, y1 = polygon.bounds
    return " ".join(f"{v:.2f}" for v in (polygon.area, x0, y0, x1 - x0, y1 - y0))


def region_id(polygon: Polygon, key: str) -> str:
    """Id of a region: the same outline on the same slide has the same."""
    return object_id(key, "region", json.dumps(polygon_geometry(polygon)))


def region_features(
    found: RegionSet, key: str, target: str, metadata: dict[str, str]
) -> Iterator[str]:
    """One JSON text per region: a locked annotation with its area and means."""
    name, class_name = region_names(found.drawn)
    for rank, region in enumerate(found.regions, start=1):
        geometry = polygon_geometry(region.polygon)
        measured = {
            measurement_name("Area um^2"): region.area_um2,
            measurement_name("Saliency mean"): region.saliency_mean,
            measurement_name(f"{target} probability"): region.probability_mean,
        }
        feature = {
            "type": "Feature",
            "id": region_id(region.polygon, key),
            "geometry": geometry,
            "properties": {
                "objectType": "annotation",
                "name": f"{name} {rank}",
                "isLocked": True,
                "classification": {
                    "names": class_name.split(": "),
                    "color": list(REGION_COLOUR),
                },
                "measurements": {
                    key: float(number(value))
                    for key, value in measured.items()
                    if abs(value) <= LARGEST
                },
                "metadata": {**metadata, "outline": outline_text(region.polygon)},
            },
        }
        yield json.dumps(feature, separators=(",", ":"), allow_nan=False)


def _write(stream: IO[bytes] | gzip.GzipFile, features: Iterator[str]) -> int:
    stream.write(b'{"type":"FeatureCollection","features":[')
    count = 0
    held: list[str] = []
    for feature in features:
        held.append(feature if count == 0 else "," + feature)
        count += 1
        if len(held) >= FEATURES_A_WRITE:
            stream.write("\n".join(held).encode())
            held.clear()
    stream.write(("\n".join(held) + "]}\n").encode())
    return count


def write_geojson(path: Path, features: Iterator[str]) -> int:
    """Write a FeatureCollection, gzipped where the name ends in ``.gz``; returns the count.

    Features stream: memory does not grow with their number. The gzip header holds neither
    a name nor a time.
    """
    with atomic_path(path) as partial, partial.open("wb") as raw:
        if path.suffix != ".gz":
            return _write(raw, features)
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed:
            return _write(packed, features)
