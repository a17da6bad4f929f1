"""What each patch adds to a slide's score, as a table, and as tiles for QuPath."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import write_text_if_changed
from pathology_scaat.errors import SlideError
from pathology_scaat.export.qupath.geojson import (
    measurement_name,
    number,
    object_id,
    write_geojson,
)
from pathology_scaat.slides import open_slide
from pathology_scaat.training.heads.config import Target
from pathology_scaat.training.heads.feature_files import FeatureFile

CONTRIBUTIONS = "contributions"


@dataclass(frozen=True)
class Written:
    """Which files were written of a slide."""

    table: bool
    squares: bool


def contribution_names(target: Target) -> tuple[str, ...]:
    """What each number speaks of: a class, higher grades, or a higher hazard."""
    if target.kind == "classes":
        return target.names
    return ("higher grade",) if target.kind == "grades" else ("higher hazard",)


def contribution_files(folder: Path, slide_id: str) -> tuple[Path, Path]:
    """Where a slide's table of contributions and its tiles lie."""
    return folder / f"{slide_id}.csv", folder / f"{slide_id}.geojson.gz"


def write_contributions(
    folder: Path,
    file: FeatureFile,
    values: NDArray[np.floating[Any]],
    target: Target,
    slide: Path | None,
) -> tuple[Written, str]:
    """Write what the patches of a slide contribute; what of an earlier call does not hold goes.

    Parameters
    ----------
    folder : Path
    file : FeatureFile
        Whose patches they are, in its order.
    values : (n, O)
        They add up to the bag's O scores: a class each, or one for grades and hazards.
    target : Target
    slide : Path, optional
        The slide itself: coordinates that do not lie on it are reported, and no tiles made.

    Returns
    -------
    Written, str
        What was written, and what is wrong (empty where nothing is).
    """
    table, squares = contribution_files(folder, file.slide_id)
    if file.coords_px is None:
        table.unlink(missing_ok=True)
        squares.unlink(missing_ok=True)
        return Written(False, False), ""
    folder.mkdir(parents=True, exist_ok=True)
    names = contribution_names(target)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["x_px", "y_px", *(f"contribution to {name}" for name in names)])
    for (x, y), row in zip(file.coords_px.tolist(), values.tolist(), strict=True):
        writer.writerow([x, y, *(f"{v:.6g}" for v in row)])
    write_text_if_changed(table, text.getvalue())
    side = file.patch_size_level0_px
    problem = _off_the_slide(file, slide) if side is not None else ""
    if side is None or problem:
        squares.unlink(missing_ok=True)
        return Written(True, False), problem
    write_geojson(squares, _tiles(file, side, values, names))
    return Written(True, True), ""


def _off_the_slide(file: FeatureFile, slide: Path | None) -> str:
    if file.coords_px is None or not len(file.coords_px):
        return ""
    low, high = file.coords_px.min(axis=0), file.coords_px.max(axis=0)
    reach = f"{file.slide_id}: coordinates reach from {low[0]}, {low[1]} to {high[0]}, {high[1]} px"
    why = "the features are of another scan, or of another level; no tiles are written."
    if low.min() < 0:
        return f"{reach}, and a slide begins at 0, 0: {why}"
    if slide is None:
        return ""
    try:
        with open_slide(slide) as opened:
            size = opened.info.size_px
    except SlideError:
        return ""
    if high[0] < size.width and high[1] < size.height:
        return ""
    return f"{reach}, and the slide is {size.width} x {size.height}: {why}"


def _tiles(
    file: FeatureFile, side: float, values: NDArray[np.floating[Any]], names: tuple[str, ...]
) -> Iterator[str]:
    """One JSON text a patch, in order; the same input gives the same bytes."""
    assert file.coords_px is not None  # noqa: S101  (for the type checker)
    keys = [json.dumps(measurement_name(f"Contribution to {name}")) for name in names]
    for (x, y), row in zip(file.coords_px.tolist(), values.tolist(), strict=True):
        right, low = round(x + side), round(y + side)
        measured = ",".join(f"{k}:{number(v)}" for k, v in zip(keys, row, strict=True))
        yield (
            f'{{"type":"Feature","id":"{object_id(file.slide_id, "contribution", x, y)}",'
            f'"geometry":{{"type":"Polygon","coordinates":[[[{x},{y}],[{right},{y}],'
            f"[{right},{low}],[{x},{low}],[{x},{y}]]]}},"
            f'"properties":{{"objectType":"tile","measurements":{{{measured}}}}}}}'
        )
