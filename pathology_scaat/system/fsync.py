"""On the disk, and not only on its way there: what holds when the power fails.

A rename may reach the disk before the bytes of what was renamed. An artifact is therefore
synced before it is moved to its place, and the folder it moved into after. The files of a
folder are synced side by side: the file system writes its journal once for many, which makes
thirty times the rate of one after the other.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SIDE_BY_SIDE = 16
_FEW = 4
_PER_THREAD = 4
"""Starting a thread takes as long as a file or two: a small store is given a few."""

_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
"""What file systems say that have no such thing; anything else means that data may be lost."""

_WINDOWS = sys.platform == "win32"


def _sync_descriptor(descriptor: int) -> None:
    try:
        if sys.platform == "darwin":
            import fcntl

            # There fsync leaves the bytes in the drive's own memory.
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def sync_file(path: Path | str) -> None:
    """Have the bytes of a file on the disk.

    Raises
    ------
    OSError
        If they are not: network file systems report a full disk only here.
    """
    descriptor = os.open(path, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    try:
        _sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path | str) -> None:
    """Have the names in a folder on the disk (Windows offers no such thing)."""
    if not _WINDOWS:
        sync_file(path)


def _sync_all(paths: Iterable[str]) -> None:
    todo = list(paths)
    if len(todo) <= _FEW:
        for path in todo:
            sync_file(path)
        return
    try:
        with ThreadPoolExecutor(min(SIDE_BY_SIDE, -(-len(todo) // _PER_THREAD))) as threads:
            list(threads.map(sync_file, todo))
    except RuntimeError:  # no thread can be started
        for path in todo:
            sync_file(path)


def sync_tree(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk."""
    if not path.is_dir():
        sync_file(path)
        return
    files, folders = [], []
    for folder, _, names in os.walk(path):
        folders.append(folder)
        files += [os.path.join(folder, name) for name in names]
    _sync_all(files)
    if not _WINDOWS:
        _sync_all(folders)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that their names last."""
    made = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        made.append(folder)
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        sync_folder(folder.parent)
