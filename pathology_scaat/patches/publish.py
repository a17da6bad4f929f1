"""How a new store is published at its path: whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.urls import (
    SlideUrl,
    check_url,
    open_filesystem,
    reason_of,
    slide_location,
)
from pathology_scaat.errors import StoreError
from pathology_scaat.patches.zarr_layout import GROUP_FILE


@contextmanager
def new_store(path: str | Path) -> Iterator[Path]:
    """Yield a folder to make a store in; it is published when the block ends well.

    A local store is renamed into its place. Object storage has no renaming of folders: there
    the store is made in a local temporary folder and copied. The group's metadata, without
    which no reader takes a folder for a store, goes first from the old store and comes last
    of the new one; whoever is stopped in between leaves no store, which the next run makes.

    Raises
    ------
    StoreError
        If the path or URL cannot be reached or written.
    AddressError
        If it is a URL that may not be opened.
    """
    location = slide_location(path)
    if isinstance(location, Path):
        with atomic_path(location) as partial:
            yield partial
        return
    check_url(location)
    with tempfile.TemporaryDirectory(prefix="scaat-") as folder:
        partial = Path(folder) / location.name
        yield partial
        try:
            _upload(partial, location)
        except Exception as error:
            raise StoreError(
                location.name, *reason_of(error, "cannot be written to its URL")
            ) from None


def _upload(folder: Path, url: SlideUrl) -> None:
    system: Any
    system, path = open_filesystem(url)
    root = path.rstrip("/")
    marker = f"{root}/{GROUP_FILE}"
    if system.exists(marker):
        system.rm_file(marker)
    names = [f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file()]
    for name in names:
        if name != GROUP_FILE:
            system.put_file(str(folder / name), f"{root}/{name}")
    # Shards of a larger store that was here before would be nobody's.
    system.invalidate_cache()
    for old in system.find(root):
        if old.removeprefix(root + "/") not in names:
            system.rm_file(old)
    system.put_file(str(folder / GROUP_FILE), marker)
