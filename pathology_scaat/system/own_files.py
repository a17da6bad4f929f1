"""Files that the program keeps for itself in a folder where others may write too.

A lock, a lease, a log or a record in an output folder has a name that anybody can foresee. Who
may write in the folder can put a link of that name there before, and have its target
overwritten. So nothing here follows a link, what is made is new (``O_EXCL``), and what is
replaced is replaced by a rename, which never writes through what stood there.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from pathology_scaat.system.fsync import sync_file, sync_folder

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)  # a named pipe must not stop us before it is seen
_CLOSE = getattr(os, "O_CLOEXEC", 0)

LINK_WORDS = "a link or special file stands there"
"""What :class:`OSError` says of a file that is not ours to open."""


def _refusal(path: Path) -> OSError:
    return OSError(errno.ELOOP, LINK_WORDS, str(path))


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a regular file without following a link in its last part.

    Parameters
    ----------
    path : Path
    flags : int
        As of :func:`os.open`; with ``O_CREAT`` the file is made where it is absent.
    mode : int
        Permissions of a file that is made, before the umask.

    Returns
    -------
    int
        The descriptor, to be closed by the caller.

    Raises
    ------
    OSError
        If it cannot be opened, or is a link, a folder or a special file (``ELOOP``).
    """
    if not _NO_FOLLOW and path.is_symlink():
        raise _refusal(path)
    try:
        descriptor = os.open(path, flags | _NO_FOLLOW | _NO_BLOCK | _CLOSE, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK):
            raise _refusal(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refusal(path)
    return descriptor


def read_own(path: Path, max_bytes: int) -> bytes:
    """The first bytes of a regular file that is no link.

    Raises
    ------
    OSError
        As :func:`open_own`.
    """
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as stream:
        return stream.read(max_bytes)


def append_own(path: Path, text: str, *, max_bytes: int) -> None:
    """Append to a log, unless it has grown to ``max_bytes``.

    A file with a second name elsewhere (a hard link) is left alone as well: what is written into
    it would be written there.

    Raises
    ------
    OSError
        As :func:`open_own`.
    """
    descriptor = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with os.fdopen(descriptor, "ab") as stream:
        found = os.fstat(descriptor)
        if found.st_nlink > 1:
            raise _refusal(path)
        if found.st_size < max_bytes:
            stream.write(text.encode("utf-8", errors="replace"))


def new_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Make a file that must not be there yet.

    Raises
    ------
    FileExistsError
        If anything stands there, also a link to nothing.
    OSError
        If it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags | _NO_FOLLOW | _CLOSE, mode), "wb") as stream:
        stream.write(content)


def replace_file(path: Path, content: bytes, *, mode: int = 0o666, durable: bool = False) -> None:
    """Put a file into its place at once, over whatever stood there; a link goes, its target stays.

    Parameters
    ----------
    path : Path
    content : bytes
    mode : int
        Permissions before the umask.
    durable : bool
        Have bytes and name on the disk before this returns.

    Raises
    ------
    OSError
        If it cannot be written; nothing of it is left.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        new_file(partial, content, mode)
        if durable:
            sync_file(partial)
            partial.replace(path)
            sync_folder(path.parent)
        else:
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def append_durably(path: Path, text: str) -> None:
    """Add text to the end of a regular file that is no link, and have it on the disk.

    Raises
    ------
    OSError
        If it cannot be written, or is a link, a folder or a special file (``ELOOP``).
    """
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
