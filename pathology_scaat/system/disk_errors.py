"""Telling that the disk is full, or that a file cannot be written, whoever says so and how.

Libraries say it in errors of their own: torch "unexpected pos", safetensors and TensorStore by
number, SQLite in words. And torch's writer, where the system reports a failed write, ends the
whole process.
"""

from __future__ import annotations

import errno
import os
import re
from typing import IO, Any

_NUMBER = re.compile(r"os error (\d+)|os_error_code='(\d+)'|\[Errno (\d+)\]")
_WORDS = {
    "database or disk is full": errno.ENOSPC,
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "disk i/o error": errno.EIO,
    "readonly database": errno.EROFS,
    "read-only file system": errno.EROFS,
    "too many open files": errno.EMFILE,
    "unable to open database file": errno.EACCES,
}
_OF_FILES = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EACCES,
    errno.EPERM, errno.EFBIG, errno.ESTALE, errno.ENOENT,
}  # fmt: skip


def disk_error(error: BaseException) -> OSError | None:
    """The system's error behind an error about files, or one that it was raised from.

    Returns
    -------
    OSError or None
        With number and words; None where nothing says that a file was concerned.
    """
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return None
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen if seen.errno in _OF_FILES else None
        text = str(seen)
        found = _NUMBER.search(text)
        number = int(next(filter(None, found.groups()))) if found else 0
        if not number:
            low = text.casefold()
            number = next((n for words, n in _WORDS.items() if words in low), 0)
        if number in _OF_FILES:
            return OSError(number, os.strerror(number))
        seen = seen.__cause__ or seen.__context__
    return None


class PatientWriter:
    """A file that takes every write, and says at the end which one failed.

    Some libraries end the process when a write fails; they are given this instead of a path.

    Parameters
    ----------
    stream : binary file
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error

    def check(self) -> None:
        """Raise the first error, if there was one.

        Raises
        ------
        OSError
        """
        self.flush()
        if self.error is not None:
            raise self.error
