"""What the disk of the output folder can do, tried before hours of work go to it.

Renames that replace and locks are what results rest on: a disk without them (some network and
FUSE mounts) is refused at once. Hard links and the syncing of folders are not needed; whether
they are there is said by ``scaat doctor --out``.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.atomic import partial_path, remove_path
from pathology_scaat.errors import StoreError
from pathology_scaat.system.exchange import exchange
from pathology_scaat.system.locks import describe_os_error, file_lock

_NOT_ABOUT_THE_DISK = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT,
    errno.ENOTDIR,
}  # fmt: skip
"""Said where nothing can be written at all; the work itself has better words for it."""


@dataclass(frozen=True)
class DiskFeatures:
    """What a disk has beyond what is needed."""

    hard_links: bool
    folder_sync: bool
    exchange: bool


def _works(action: object, *arguments: object) -> bool:
    try:
        return action(*arguments) is not False  # type: ignore[operator]
    except OSError:
        return False


def probe_disk(folder: Path) -> DiskFeatures | None:
    """Try a disk by writing a few small files in a folder; nothing of them stays.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Returns
    -------
    DiskFeatures or None
        None where the folder cannot be written at all.

    Raises
    ------
    StoreError
        If the disk cannot replace by renaming, or has no locks.
    """
    probe_dir = partial_path(folder / "disk-probe")
    try:
        try:
            probe_dir.mkdir()
            (probe_dir / "one").write_bytes(b"1")
            (probe_dir / "two").write_bytes(b"2")
            (probe_dir / "a").mkdir()
            (probe_dir / "b").mkdir()
        except OSError as error:
            if error.errno in _NOT_ABOUT_THE_DISK:
                return None
            raise _refused(folder, "cannot be written", error) from None
        try:
            (probe_dir / "one").replace(probe_dir / "two")
            (probe_dir / "a").rename(probe_dir / "c")
        except OSError as error:
            raise _refused(
                folder, "is on a disk where nothing can be replaced by renaming", error
            ) from None
        try:
            with file_lock(probe_dir / "lock"):
                pass
        except StoreError as error:  # it names the folder of the lock
            raise StoreError(folder.name or "output folder", error.problem, error.remedy) from None
        return DiskFeatures(
            hard_links=_works(os.link, probe_dir / "two", probe_dir / "three"),
            folder_sync=_has_folder_sync(probe_dir),
            exchange=_works(exchange, probe_dir / "b", probe_dir / "c"),
        )
    finally:
        remove_path(probe_dir)


def _has_folder_sync(folder: Path) -> bool:
    if os.name == "nt":
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _refused(folder: Path, problem: str, error: OSError) -> StoreError:
    return StoreError(
        folder.name or "output folder",
        f"{problem} ({describe_os_error(error)})",
        "write the output to another disk",
    )
