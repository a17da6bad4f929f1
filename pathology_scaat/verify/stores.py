"""Re-reading patch stores, saliency stores and slide maps: schema, chain, geometry, pixels.

Every chunk carries a checksum, so that decoding all of them is the test of their bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.artifacts.checksums import folder_problem
from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import BoxPx, PatchGrid
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.identity import identity_of_meta
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.patches.zarr_layout import GROUP_FILE, LARGE_SHARDS
from pathology_scaat.saliency.schema import SCHEMA_NAME as SALIENCY_SCHEMA
from pathology_scaat.saliency.schema import SCHEMA_VERSION as SALIENCY_VERSION
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.stitching.ome_zarr import attributes_file
from pathology_scaat.stitching.schema import SCHEMA_VERSION as MAP_VERSION
from pathology_scaat.stitching.schema import SlideMapMeta
from pathology_scaat.stitching.slide_map import SlideMap

READ_BYTES = 64 << 20
"""How much is decoded at a time."""

Any2D = np.ndarray[Any, Any]


def batch_count(bytes_each: int) -> int:
    return max(1, READ_BYTES // max(bytes_each, 1))


def _grid_problems(grid: PatchGrid, grid_index: Any2D, origins_px: Any2D, n: int) -> list[str]:
    if grid_index.shape != (n, 2) or origins_px.shape != (n, 2):
        return [f"holds {n} patches, but other numbers of grid positions or origins"]
    problems = []
    last = np.array([grid.n_cols, grid.n_rows])
    if n and ((grid_index < 0).any() or (grid_index >= last).any()):
        problems.append("has patches outside its own grid")
    elif n and not np.array_equal(grid.origins_px(grid_index), origins_px):
        problems.append("has origins that do not follow from its grid")
    if n and len(np.unique(grid_index, axis=0)) != n:
        problems.append("holds a grid position twice")
    return problems


def _id_problems(found: str, slide_id: str) -> list[str]:
    return [] if found == slide_id else ["is named after another slide than the one it holds"]


def check_patches(
    path: Path, slide_id: str, deep: bool
) -> tuple[PatchStoreMeta | None, list[str], str]:
    """Problems of a patch store, and its metadata where it can be read."""
    try:
        store = PatchStore(path)
        meta, n = store.meta, len(store)
        problems = _id_problems(meta.slide_id, slide_id)
        problems += _grid_problems(meta.grid, store.grid_index, store.origins_px, n)
        own = identity_of_meta(meta)
        if own.pixels != meta.fingerprint:
            problems.append("has a fingerprint that does not follow from its inputs")
        elif own.labels != meta.label_fingerprint:
            problems.append(
                "has labels that were not made of its annotations and classes, or not for these "
                "patches; tile again"
            )
        k = len(meta.class_names)
        shapes = (store.labels.shape, store.tissue_fraction.shape, store.label_coverage.shape)
        if shapes != ((n,), (n,), (n, k)):
            problems.append("has columns that do not fit its number of patches and classes")
        elif n and not (store.labels.min() >= -1 and store.labels.max() < max(k, 1)):
            problems.append("has labels beyond its class names")
        problems += _checksum_problems(path, GROUP_FILE, deep, LARGE_SHARDS)
        if deep and meta.has_pixels:
            for _ in store.iter_batches(batch_count(3 * meta.grid.patch_size_px**2)):
                pass
    except StoreError as error:
        return None, [f"{error.problem}; {error.remedy}"], ""
    left_out = f", {meta.n_unreadable} unreadable left out" if meta.n_unreadable else ""
    kept = "" if meta.has_pixels else ", their pixels are in the slide"
    return meta, problems, f"{n} patches at {meta.effective_mpp:g} µm/px{left_out}{kept}"


def check_saliency(
    path: Path, slide_id: str, patches: PatchStoreMeta | None, deep: bool
) -> tuple[SaliencyStoreMeta | None, list[str], str]:
    """Problems of a saliency store against the patch store it was made of."""
    try:
        store = SaliencyStore(path)
        meta, n = store.meta, len(store)
        problems = _id_problems(meta.slide_id, slide_id)
        problems += _grid_problems(meta.grid, store.grid_index, store.origins_px, n)
        side = meta.grid.patch_size_px // meta.stride_px
        if tuple(store.saliency.shape) != (n, side, side):
            problems.append("has saliency of another size than its patches")
        probability = store.probability
        if probability.shape != (n, len(meta.class_names)):
            problems.append("has probabilities that do not fit its patches and classes")
        elif n and not ((probability >= 0) & (probability <= 1)).all():
            problems.append("has probabilities that are not from 0 to 1")
        elif n and not meta.multi_label and not np.allclose(probability.sum(1), 1, atol=1e-3):
            problems.append(
                "has probabilities that do not add up to 1 (nor does it say that a patch may have "
                "several labels); explain again"
            )
        if fingerprint_of_saliency(meta) != meta.fingerprint:
            problems.append("has a fingerprint that does not follow from its inputs")
        if patches is not None and (
            meta.patch_fingerprint != patches.fingerprint
            or meta.slide_fingerprint != patches.slide_fingerprint
        ):
            problems.append("was made of other patches than those that are here; explain again")
        problems += _checksum_problems(path, GROUP_FILE, deep)
        if deep:
            step = batch_count(4 * side**2)
            for start in range(0, n, step):
                block = store.read_saliency(slice(start, min(start + step, n)))
                if not np.isfinite(block).all():
                    problems.append("holds saliency that is not finite")
                    break
    except StoreError as error:
        return None, [f"{error.problem}; {error.remedy}"], ""
    except (ValueError, OSError, KeyError):
        return None, ["holds saliency that cannot be decoded; explain again"], ""
    return meta, problems, f"{n} patches, {meta.method}, target {meta.target_class}"


def _checksum_problems(
    path: Path, name: str, deep: bool, by_size: tuple[str, ...] = ()
) -> list[str]:
    """Whether the bytes of a store are those that were written."""
    problem = folder_problem(path, name, by_size) if deep else None
    return [f"{problem}; make it again"] if problem else []


def fingerprint_of_saliency(meta: SaliencyStoreMeta) -> str:
    """The fingerprint that a saliency store's own inputs and parameters give."""
    return fingerprint(
        {
            "schema": SALIENCY_SCHEMA,
            "schema_version": SALIENCY_VERSION,
            "patches": meta.patch_fingerprint,
            "model": meta.model_fingerprint,
            "parameters": meta.parameters,
        }
    )


def fingerprint_of_map(meta: SlideMapMeta) -> str:
    """The fingerprint that a slide map's own input and parameters give."""
    return fingerprint(
        {
            "schema_version": MAP_VERSION,
            "saliency": meta.saliency_fingerprint,
            "parameters": meta.parameters,
        }
    )


def check_map(
    path: Path, slide_id: str, saliency: SaliencyStoreMeta | None, deep: bool
) -> tuple[SlideMapMeta | None, list[str], str]:
    """Problems of a slide map against the saliency store it was made of."""
    try:
        slide_map = SlideMap(path)
        meta = slide_map.meta
        problems = _id_problems(meta.slide_id, slide_id)
        if fingerprint_of_map(meta) != meta.fingerprint:
            problems.append("has a fingerprint that does not follow from its inputs")
        if saliency is not None and meta.saliency_fingerprint != saliency.fingerprint:
            problems.append("was made of other saliency than what is here; stitch again")
        problems += _frame_problems(slide_map, saliency)
        problems += _checksum_problems(path, attributes_file(slide_map.ngff), deep)
        if deep:
            problems += _pixel_problems(slide_map)
    except StoreError as error:
        return None, [f"{error.problem}; {error.remedy}"], ""
    except (ValueError, OSError, KeyError, RuntimeError):
        return None, ["holds pixels that cannot be decoded; stitch again"], ""
    return meta, problems, f"{meta.size_px.width} x {meta.size_px.height} px at {meta.mpp:g} µm/px"


def _frame_problems(slide_map: SlideMap, saliency: SaliencyStoreMeta | None) -> list[str]:
    """Whether the map lies on the slide where it says: frame, scale, size, pyramid."""
    meta = slide_map.meta
    frame = meta.frame_px
    problems = []
    # The same tolerance as stitching: rounding noise in the scale must not add a column.
    width, height = (math.ceil(side / meta.scale_px - 1e-6) for side in (frame.width, frame.height))
    if (meta.size_px.width, meta.size_px.height) != (width, height):
        problems.append("is of another size than its frame and scale say")
    if not math.isclose(meta.mpp, meta.slide.mpp * meta.scale_px, rel_tol=1e-9):
        problems.append("has a µm/px that does not follow from the slide's")
    if saliency is not None and meta.slide != saliency.slide:
        problems.append("lies in another frame than the patches")
    expected = meta.size_px
    for level in range(slide_map.n_levels):
        if slide_map.size_px(level) != expected:
            problems.append(f"has level {level} in the wrong size")
            break
        expected = type(expected)((expected.width + 1) // 2, (expected.height + 1) // 2)
    return problems


def _pixel_problems(slide_map: SlideMap) -> list[str]:
    """Decode every pixel of every level; report values that cannot be."""
    problems = set()
    for level in range(slide_map.n_levels):
        size = slide_map.size_px(level)
        rows = max(1024, batch_count(4 * size.width) // 1024 * 1024)
        for channel in slide_map.channel_names:
            for y in range(0, size.height, rows):
                box = BoxPx(0, y, size.width, min(rows, size.height - y))
                values = slide_map.read(channel, level, box)
                if np.isinf(values).any() or (values[~np.isnan(values)] < 0).any():
                    problems.add(f"channel '{channel}' holds values that cannot be")
    return sorted(problems)
