"""Short exclusive sections between threads, processes and machines on one folder.

The lock is the operating system's advisory lock on a small file: it vanishes with its
holder, so that a killed process never blocks the next. For work that takes minutes, use
:mod:`pathology_scaat.artifacts.leases`.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pathology_scaat.errors import LeaseError, StoreError
from pathology_scaat.system.own_files import open_own

_RETRY_S = 0.02
_threads_guard = threading.Lock()
_thread_locks: dict[str, threading.Lock] = {}


def _thread_lock(path: Path) -> threading.Lock:
    """One lock a file within this process: network file systems lock whole processes only."""
    with _threads_guard:
        return _thread_locks.setdefault(os.path.abspath(path), threading.Lock())


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def describe_os_error(error: OSError) -> str:
    """An operating system's error in words and by its name, without the paths it names."""
    name = errno.errorcode.get(error.errno or 0, "")
    words = error.strerror or type(error).__name__
    return f"{words}, {name}" if name else words


@contextmanager
def file_lock(path: Path, timeout_s: float = 60.0) -> Iterator[int]:
    """Hold the exclusive lock on a file; yield its open descriptor.

    Parameters
    ----------
    path : Path
        The lock file; made where absent, left in place afterwards (removing it would race).
    timeout_s : float
        Seconds to wait for the present holder.

    Raises
    ------
    LeaseError
        If the lock was not free in time.
    StoreError
        If the lock file cannot be made (read-only or full folder, no locks there).
    """
    deadline = time.monotonic() + timeout_s
    busy = LeaseError(
        path.name, f"has been locked for {timeout_s:g} s", "end the other run, then run again"
    )
    mutex = _thread_lock(path)
    if not mutex.acquire(timeout=timeout_s):
        raise busy
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise StoreError(
                path.name if error.errno == errno.ELOOP else path.parent.name or "output folder",
                f"cannot be written ({describe_os_error(error)})",
                "remove it"
                if error.errno == errno.ELOOP
                else "check its permissions and free space",
            ) from None
        try:
            try:
                while not _try_lock(descriptor):
                    if time.monotonic() > deadline:
                        raise busy
                    time.sleep(_RETRY_S)
            except LeaseError:
                raise
            except OSError as error:
                raise StoreError(
                    path.parent.name or "output folder",
                    f"is on a file system without locks ({describe_os_error(error)})",
                    "write the output to another disk",
                ) from None
            try:
                yield descriptor
            finally:
                _unlock(descriptor)
        finally:
            os.close(descriptor)
    finally:
        mutex.release()
