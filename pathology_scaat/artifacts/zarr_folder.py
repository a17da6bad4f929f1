"""zarr stores on any disk: without hard links (exFAT, SMB) and without syncing of folders.

A store is written in an unfinished folder that nobody else knows, synced as a whole and renamed
into its place (:func:`pathology_scaat.artifacts.atomic.atomic_path`). What zarr-python and
TensorStore do on their own for each file, a hard link so that two writers never write one
metadata file, and a sync of file and folder, adds nothing to that and fails on such disks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore


class UnfinishedFolder(LocalStore):
    """A local folder with one writer: files are renamed into place, never hard-linked."""

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await Store.set_if_not_exists(self, key, value)


def file_kvstore(path: Path | str) -> dict[str, Any]:
    """TensorStore's specification of a local folder whose files it does not sync."""
    return {"driver": "file", "path": str(path), "file_io_sync": False}


def group_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a zarr group (version 3 or 2) in a local folder, without opening its arrays.

    zarr-python asks for the same file on an event loop in a thread of its own, after some that
    are not there: of a slide of a few patches that is a tenth of all its time.

    Raises
    ------
    OSError, ValueError, RecursionError
        If there is no group, or its text is damaged.
    """
    try:
        text = (path / "zarr.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        json.loads((path / ".zgroup").read_bytes())
        attributes = json.loads((path / ".zattrs").read_bytes())
    else:
        value = json.loads(text)
        if not isinstance(value, dict) or value.get("node_type") != "group":
            raise ValueError("no group")
        attributes = value.get("attributes", {})
    if not isinstance(attributes, dict):
        raise ValueError("attributes")
    return attributes
