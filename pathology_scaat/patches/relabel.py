"""New labels on patches that stay as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.patches.publish import new_store
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.patches.writer import write_label_columns
from pathology_scaat.patches.zarr_layout import GROUP_FILE, LARGE_SHARDS, write_group

_LABEL_ARRAYS = ("label", "label_coverage")


def relabel_store(
    store: PatchStore,
    meta: PatchStoreMeta,
    label: NDArray[np.integer],
    label_coverage: NDArray[np.floating],
) -> None:
    """Give the patches of a local store other labels; no byte of their pixels is written.

    The store is made anew out of hard links to the files that stay, new columns and new
    metadata, and takes the old one's place in one step: whoever is stopped in between leaves
    the old store as it was. Where a file system knows no hard links, the files are copied.

    Parameters
    ----------
    store : PatchStore
        The store as it is, on a local path.
    meta : PatchStoreMeta
        What it says afterwards.
    label : (N,) int
    label_coverage : (N, K) float

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    path = Path(store.path)
    with new_store(path) as partial:
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            if file.is_file() and name.parts[0] not in (GROUP_FILE, *_LABEL_ARRAYS):
                _link(file, partial / name)
        write_label_columns(partial, label, label_coverage)
        write_group(partial, meta.to_attributes())
        checksum_folder(partial, GROUP_FILE, LARGE_SHARDS)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):  # no links here, or too many to this file
        shutil.copy2(source, target)
