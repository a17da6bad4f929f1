"""Where several models differ about a slide that they predicted together: tiles for QuPath."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.export.qupath.geojson import (
    measurement_name,
    number,
    object_id,
    write_geojson,
)
from pathology_scaat.patches import PatchStore

DISAGREEMENT = "disagreement"


def write_disagreement(
    folder: Path,
    space: Workspace,
    found: Mapping[str, NDArray[np.float32]],
    positive: str,
    n_models: int,
) -> None:
    """Write ``SLIDE.geojson.gz`` for each slide; what an earlier call left of others goes.

    Parameters
    ----------
    folder : Path
    space : Workspace
        Where the patches are.
    found : mapping of slide id to (N,) float32
        Standard deviation of the positive class's probability over the models, a patch each.
    positive : str
    n_models : int
    """
    for path in folder.glob("*.geojson.gz"):
        if path.name.removesuffix(".geojson.gz") not in found:
            path.unlink()
    for slide_id, values in found.items():
        folder.mkdir(exist_ok=True)
        store = PatchStore(space.patches(slide_id))
        name = f"Disagreement of {n_models} models about {positive}"
        write_geojson(folder / f"{slide_id}.geojson.gz", _tiles(store, values, name))


def _tiles(store: PatchStore, values: NDArray[np.float32], name: str) -> Iterator[str]:
    """One JSON text a patch, in slide order."""
    grid = store.meta.grid
    origins = grid.exact_origins_px(store.grid_index)
    key = json.dumps(measurement_name(name))
    low = np.floor(origins + 0.5).astype(int).tolist()
    high = np.floor(origins + grid.patch_size_level0_px + 0.5).astype(int).tolist()
    for (x, y), (x1, y1), value in zip(low, high, values.tolist(), strict=True):
        yield (
            f'{{"type":"Feature","id":"{object_id(store.meta.slide_id, "disagreement", x, y)}",'
            f'"geometry":{{"type":"Polygon","coordinates":[[[{x},{y}],[{x1},{y}],[{x1},{y1}],'
            f"[{x},{y1}],[{x},{y}]]]}},"
            f'"properties":{{"objectType":"tile","measurements":{{{key}:{number(value)}}}}}}}'
        )
