"""Stores of patches without their pixels: where they lie, how much tissue and which label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.errors import SlideReadError
from pathology_scaat.patches.config import TileConfig
from pathology_scaat.patches.publish import new_store
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.patches.writer import write_patch_table
from pathology_scaat.patches.zarr_layout import GROUP_FILE, LARGE_SHARDS, write_group


def count_unreadable(readable: NDArray[np.bool_], config: TileConfig, subject: str) -> int:
    """How many patches cannot be decoded; ``readable`` is (N,), one truth a patch.

    Raises
    ------
    SlideReadError
        If they are more than ``max_unreadable_share``.
    """
    n_unreadable = int((~readable).sum())
    if n_unreadable > config.max_unreadable_share * len(readable):
        raise SlideReadError(
            subject,
            f"{n_unreadable} of {len(readable)} patches cannot be decoded",
            "copy the slide again, or raise max_unreadable_share",
        )
    return n_unreadable


def write_without_pixels(
    path: str | Path,
    meta: PatchStoreMeta,
    grid_index: NDArray[np.integer],
    tissue_fraction: NDArray[np.floating],
    label: NDArray[np.integer],
    label_coverage: NDArray[np.floating],
) -> None:
    """Make a store of everything but pixels; it appears whole or not at all.

    Parameters
    ----------
    path : str or Path
    meta : PatchStoreMeta
        With ``has_pixels`` False.
    grid_index : (N, 2) int
    tissue_fraction : (N,) float
    label : (N,) int
    label_coverage : (N, K) float
    """
    with new_store(path) as partial:
        partial.mkdir(parents=True, exist_ok=True)
        write_patch_table(partial, meta, grid_index, tissue_fraction, label, label_coverage)
        write_group(partial, meta.to_attributes())
        checksum_folder(partial, GROUP_FILE, LARGE_SHARDS)


def without_unreadable(store: PatchStore, readable: NDArray[np.bool_]) -> None:
    """Leave patches out of a store without pixels whose pixels in the slide are damaged.

    ``readable`` is (N,), one truth a patch. The store is written anew in its place.
    """
    meta = replace(store.meta, n_unreadable=store.meta.n_unreadable + int((~readable).sum()))
    write_without_pixels(
        store.path,
        meta,
        store.grid_index[readable],
        store.tissue_fraction[readable],
        store.labels[readable],
        store.label_coverage[readable],
    )
