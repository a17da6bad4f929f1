"""Two names change places in one step, where the system can (Linux, most disks)."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENOENT}
"""The system or the file system has no such call, or one of the two names is gone."""


@cache
def _renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # an old C library
        return None


def exchange(one: Path, other: Path) -> bool:
    """Have two files or folders of one disk change names: no moment is without either.

    Returns
    -------
    bool
        False where that cannot be done, and nothing has happened.

    Raises
    ------
    OSError
        If the disk fails; nothing has happened.
    """
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number))
