"""Content fingerprint of a slide: a hash of all of its bytes, never of a part.

A repaired block, a hole that a broken copy left, a pixel changed in place: each is another slide.
All bytes are hashed with BLAKE3 (a few GB/s on one core, as fast as most disks), beside the work
that reads the slide anyway (:class:`FingerprintTask`). What was hashed is remembered by the files'
identity, size and times, for this user alone and without any name, so that running again costs
nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blake3 import blake3

from pathology_scaat.artifacts.urls import SlideLocation
from pathology_scaat.errors import ScaatError, SlideOpenError, SlideReadError
from pathology_scaat.system.locks import describe_os_error
from pathology_scaat.system.own_files import read_own, replace_file

BLOCK_BYTES = 4 << 20
RACY_S = 2.0
"""A file that changed so shortly ago may change again within the clock's grain: not remembered."""

CACHE_VARIABLE = "SCAAT_CACHE_DIR"
"""Environment variable: where hashes are remembered instead of the user's cache folder."""

_CACHE_VERSION = b"1"
KEY_NAME_HEX = 8
_KEY_NAME = b"pathology_scaat: which key"
_DIGEST = re.compile(rb"[0-9a-f]{64}")


class StoppedError(Exception):
    """The work that a fingerprint was for has ended without it."""


def slide_files(path: Path) -> list[Path]:
    """Every file whose bytes belong to a slide, in a fixed order."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    suffix = path.suffix.lower()
    companions = path.with_suffix("")
    if suffix == ".mrxs" and companions.is_dir():
        return [path, *sorted(p for p in companions.rglob("*") if p.is_file())]
    if suffix == ".dcm":  # the other levels are files of their own beside it
        return sorted({path, *(p for p in path.parent.glob("*.[dD][cC][mM]") if p.is_file())})
    if suffix in {".vms", ".vmu"}:
        names = re.findall(rb"=\s*([^\r\n=]+?)\s*$", path.read_bytes()[: 1 << 20], re.MULTILINE)
        beside = {path.parent / Path(os.fsdecode(name)).name for name in names}
        return [path, *sorted(p for p in beside if p != path and p.is_file())]
    return [path]


def keyed(digest: str, key: bytes) -> str:
    """A digest under a key (HMAC-SHA256), as it is without one.

    The plain hash of a slide shows everybody who has the slide that it is in a cohort. Before
    the hash stands which key it is under: hashes under different keys cannot be compared, and
    that they differ does not say that the slides do.
    """
    if not key:
        return digest
    mark = hmac.new(key, _KEY_NAME, hashlib.sha256).hexdigest()[:KEY_NAME_HEX]
    return f"{mark}-{hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()}"


def key_of(fingerprint: str) -> str:
    """Which key a fingerprint is under, by :func:`keyed`; empty where it is under none.

    Examples
    --------
    >>> key_of("ab" * 32), key_of(keyed("ab" * 32, b"secret")) == key_of(keyed("", b"secret"))
    ('', True)
    """
    return fingerprint.partition("-")[0] if "-" in fingerprint else ""


def slide_fingerprint(
    path: Path, *, remembered: bool = True, stopped: threading.Event | None = None
) -> str:
    """Content fingerprint of a slide: BLAKE3 (hex) over sizes and bytes of all of its files.

    Names and times do not enter, so that a copied or renamed slide keeps its fingerprint.

    Parameters
    ----------
    path : Path
        A file, or the folder of a slide; the files that belong to it are found.
    remembered : bool
        Take the hash that was remembered for these very files, if there is one.
    stopped : threading.Event, optional
        Ends the reading with :class:`StoppedError` when set.

    Raises
    ------
    SlideOpenError
        If a file cannot be read.
    SlideReadError
        If a file changes while it is read.
    """
    if path.exists() and not (path.is_dir() or path.is_file()):
        # A pipe or a device would be waited for, or read, for ever.
        raise SlideOpenError(path.name, "is neither a file nor a folder", "give the slide's file")
    try:
        files = slide_files(path)
        before = [os.stat(file) for file in files]
        entry = _cache_entry(before)
        if remembered and entry is not None and (found := _recall(entry)):
            return found
        began = time.time()
        digest = blake3()
        for file, found_stat in zip(files, before, strict=True):
            digest.update(found_stat.st_size.to_bytes(8, "little"))
            with file.open("rb", buffering=0) as stream:
                _hash_stream(digest, stream.readinto, stopped)
        after = [os.stat(file) for file in files]
    except OSError as error:
        if isinstance(error, ScaatError):
            raise
        raise SlideOpenError(
            path.name,
            f"cannot be read ({describe_os_error(error)})",
            "check the file and its permissions",
        ) from None
    if list(map(_identity, before)) != list(map(_identity, after)):
        raise SlideReadError(
            path.name, "changed while it was read", "run again when it is written whole"
        )
    result = str(digest.hexdigest())
    newest = max((max(s.st_mtime, s.st_ctime) for s in before), default=0.0)
    if entry is not None and newest < began - RACY_S:
        with suppress(OSError):
            replace_file(entry, result.encode(), mode=0o600)
    return result


def _hash_stream(
    digest: Any, readinto: Callable[[memoryview], int | None], stopped: threading.Event | None
) -> None:
    block = memoryview(bytearray(BLOCK_BYTES))
    while size := readinto(block):
        if stopped is not None and stopped.is_set():
            raise StoppedError
        digest.update(block[:size])


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """What changes with a file's content, or when another file takes its name."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _cache_folder() -> Path | None:
    """A folder that only this user can write to; None where there is none."""
    base = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or base or Path("~").expanduser() / ".cache")
        own = os.environ.get(CACHE_VARIABLE)
        folder = (Path(own) if own else root / "pathology_scaat") / "fingerprints"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = os.lstat(folder)
    except (OSError, RuntimeError):
        return None
    if not stat.S_ISDIR(found.st_mode):
        return None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        return None  # others could claim that a slide is another
    return folder


def _cache_entry(found: Iterable[os.stat_result]) -> Path | None:
    folder = _cache_folder()
    if folder is None:
        return None
    text = repr([_identity(one) for one in found]).encode()
    return folder / hashlib.sha256(_CACHE_VERSION + text).hexdigest()


def _recall(entry: Path) -> str | None:
    try:
        text = read_own(entry, 100)
    except OSError:
        return None
    return text.decode() if _DIGEST.fullmatch(text) else None


def location_fingerprint(location: SlideLocation, stopped: threading.Event | None = None) -> str:
    """Content fingerprint of a slide by path or URL."""
    if isinstance(location, Path):
        return slide_fingerprint(location, stopped=stopped)
    from pathology_scaat.slides.remote import remote_fingerprint

    return remote_fingerprint(location, stopped=stopped)


class FingerprintTask:
    """A slide's fingerprint, computed beside other work; ended with the ``with`` block.

    Parameters
    ----------
    location : Path or SlideUrl
    key : bytes
        See :func:`keyed`.
    """

    def __init__(self, location: SlideLocation, key: bytes = b"") -> None:
        self._location = location
        self._key = key
        self._result = ""
        self._error: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fingerprint", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._result = keyed(location_fingerprint(self._location, self._stopped), self._key)
        except Exception as error:
            self._error = error

    def result(self) -> str:
        """Wait for the fingerprint.

        Raises
        ------
        SlideError
            If the slide cannot be read, or changes while it is read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
