"""Scores of patches as tables: a CSV as WSInfer writes it, and TIAToolbox's annotation store.

Both are in level-0 pixels of the whole canvas, as OpenSlide-based programs count them.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.export.qupath.geojson import number, object_id
from pathology_scaat.export.qupath.palette import (
    CONTRIBUTES_LITTLE,
    UNLIKE_TRAINING,
    qupath_classes,
)
from pathology_scaat.export.tiles import UNLIKE_MEASUREMENT, TileTable

ROWS_A_BATCH = 10_000

UNLIKE_COLUMN = "unlike_training_percentile"

STORE_VERSION = "1.0.1"
"""Version of TIAToolbox's SQLite schema that is written."""

_SCHEMA = """
CREATE TABLE metadata (key TEXT UNIQUE, value TEXT);
CREATE VIRTUAL TABLE rtree USING rtree(id, min_x, max_x, min_y, max_y);
CREATE TABLE annotations (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT, cx FLOAT NOT NULL, cy FLOAT NOT NULL,
    geometry BLOB, properties TEXT, area FLOAT NOT NULL
);
"""


def write_csv(path: Path, table: TileTable, class_names: tuple[str, ...]) -> None:
    """Whole patches with ``minx, miny, width, height, prob_<class>`` and mean saliency.

    Where it is known, how unlike the training data a patch is stands last.
    """
    header = ["minx", "miny", "width", "height", *(f"prob_{name}" for name in class_names)]
    unlike = dict(table.more).get(UNLIKE_MEASUREMENT)
    last = [] if unlike is None else [UNLIKE_COLUMN]
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*header, "saliency_mean", *last])
        for i in range(len(table)):
            left, top, right, bottom = table.patch_px[i].tolist()
            scores = [number(p) for p in table.probability[i].tolist()]
            saliency = number(float(table.saliency_mean[i]))
            far = [] if unlike is None else [number(float(unlike[i]))]
            writer.writerow([left, top, right - left, bottom - top, *scores, saliency, *far])


def _store_rows(
    table: TileTable,
    class_names: tuple[str, ...],
    key: str,
    unjudged: NDArray[np.bool_],
) -> Iterator[list[tuple[Any, ...]]]:
    classes = [c.name for c in qupath_classes(class_names)]
    little = table.little
    for start in range(0, len(table), ROWS_A_BATCH):
        edges = table.edges_px[start : start + ROWS_A_BATCH]
        polygons = shapely.to_wkb(shapely.box(*edges.astype(np.float64).T), byte_order=1)
        rows = []
        for offset, ((left, top, right, bottom), wkb) in enumerate(
            zip(edges.tolist(), polygons, strict=True)
        ):
            i = start + offset
            probability = table.probability[i].tolist()
            properties: dict[str, Any] = {
                "type": UNLIKE_TRAINING.name if unjudged[i]
                else CONTRIBUTES_LITTLE.name if little[i]
                else classes[int(np.argmax(probability))],
                **{f"{n} probability": float(number(p)) for n, p in
                   zip(classes, probability, strict=True)},
                "saliency mean": float(number(float(table.saliency_mean[i]))),
            }  # fmt: skip
            rows.append(
                (i + 1, object_id(key, "tile", left, top, right - left, bottom - top),
                 "Polygon", (left + right) / 2, (top + bottom) / 2, zlib.compress(wkb, 9),
                 json.dumps(properties, separators=(",", ":")),
                 float((right - left) * (bottom - top)), left, right, top, bottom)
            )  # fmt: skip
        yield rows


def write_annotation_store(
    path: Path,
    table: TileTable,
    class_names: tuple[str, ...],
    key: str,
    unjudged: NDArray[np.bool_] | None = None,
) -> None:
    """Write tiles as a store that TIAToolbox's ``SQLiteStore`` and TIAViz open.

    ``unjudged``, (N,), are tiles that get no class of the model.

    The schema is written with Python's own sqlite3: TIAToolbox's writer needs an interpreter
    whose sqlite3 loads extensions, holds all tiles at once and takes ten times as long.
    """
    without = np.zeros(len(table), dtype=bool) if unjudged is None else unjudged
    with atomic_path(path) as partial:
        connection = sqlite3.connect(partial, isolation_level=None)
        try:
            connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO metadata VALUES (?, ?)",
                [("version", f'"{STORE_VERSION}"'), ("compression", '"zlib"'),
                 ("compression_level", "9")],
            )  # fmt: skip
            for rows in _store_rows(table, class_names, key, without):
                connection.executemany(
                    "INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [row[:8] for row in rows],
                )
                connection.executemany(
                    "INSERT INTO rtree VALUES (?, ?, ?, ?, ?)", [(row[0], *row[8:]) for row in rows]
                )
            connection.execute("COMMIT")
        finally:
            connection.close()
