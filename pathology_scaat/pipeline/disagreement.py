"""Where several models differ about a slide that they predicted together: tiles for QuPath."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import StoreError
from pathology_scaat.evaluation.performance.predictions import HOW_NAME, read_how
from pathology_scaat.export.qupath.geojson import (
    measurement_name,
    number,
    object_id,
    write_geojson,
)
from pathology_scaat.export.report.differences import Difference
from pathology_scaat.patches import PatchStore
from pathology_scaat.training.bags.patch_meaning import least_said, most_against

DISAGREEMENT = "disagreement"


def where_apart(positive: str, class_names: Sequence[str], of_slides: bool) -> str:
    """What counts as speaking of a patch differently, as the end of a sentence.

    ``of_slides`` is whether the models learnt from labels of slides.
    """
    if not of_slides:
        return f"some put the probability of {positive} above one half there, others do not"
    n = len(class_names)
    return (
        f"there it speaks for {positive} to some (probability at least {least_said(n):.2g}), "
        f"against it to others (at most {most_against(n):.2g})"
    )


def write_disagreement(
    folder: Path,
    space: Workspace,
    found: Mapping[str, NDArray[np.float32]],
    apart: Mapping[str, int],
    positive: str,
    n_models: int,
    apart_words: str,
) -> dict[str, dict[str, Any]]:
    """Write ``SLIDE.geojson.gz`` for each slide; what an earlier call left of others goes.

    Returns the record of it by slide id, which :func:`disagreement_words` reads again.

    Parameters
    ----------
    folder : Path
    space : Workspace
        Where the patches are.
    found : mapping of slide id to (N,) float32
        Standard deviation of the positive class's probability over the models, a patch each.
    apart : mapping of slide id to int
        Patches that the models speak of differently.
    positive : str
    n_models : int
    apart_words : str
        What that means, as the end of a sentence.
    """
    for path in folder.glob("*.geojson.gz"):
        if path.name.removesuffix(".geojson.gz") not in found:
            path.unlink()
    record = {}
    for slide_id, values in found.items():
        folder.mkdir(exist_ok=True)
        store = PatchStore(space.patches(slide_id))
        name = f"Disagreement of {n_models} models about {positive}"
        write_geojson(folder / f"{slide_id}.geojson.gz", _tiles(store, values, name))
        record[slide_id] = {
            "n_models": n_models,
            "n_patches": len(values),
            "n_apart": apart[slide_id],
            "where_apart": apart_words,
            "patches": store.meta.fingerprint,
        }
    return record


def disagreement_words(out: Path) -> dict[str, Difference]:
    """Where the models of the last prediction differ, by slide, for a page in a folder of ``out``.

    Tiles that are gone, or that are of earlier patches, are left out.
    """
    how = read_how(out / HOW_NAME)
    recorded = how.get(DISAGREEMENT)
    found = {}
    for slide_id, one in (recorded if isinstance(recorded, dict) else {}).items():
        name = f"{slide_id}.geojson.gz"
        try:
            meta = PatchStore(Workspace(out).patches(slide_id)).meta
        except StoreError:
            continue
        # what counted as a difference is not known of records of earlier versions
        current = meta.fingerprint == one["patches"] and "where_apart" in one
        if not current or not (out / DISAGREEMENT / name).is_file():
            continue
        found[slide_id] = Difference(
            f"The {one['n_models']} models that predicted this slide together differ about "
            f"{one['n_apart']:,} of its {one['n_patches']:,} patches: {one['where_apart']}.",
            f"../{DISAGREEMENT}/{name}",
        )
    return found


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
