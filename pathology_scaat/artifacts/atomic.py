"""What made an artifact, and how an artifact appears: whole or not at all.

An artifact carries the fingerprint of its inputs and parameters. A stage that finds the
right fingerprint does nothing; with any other it makes the artifact anew, beside its
place, and renames it into place when it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.system.exchange import exchange
from pathology_scaat.system.fsync import make_folder, sync_folder, sync_tree
from pathology_scaat.system.own_files import read_own
from pathology_scaat.system.processes import owner_tag
from pathology_scaat.system.signals import defer_signals

PARTIAL_MARK = ".partial-"
"""Part of the name of everything that is not whole yet; never read. See :func:`as_partial`."""


def remove_path(path: Path) -> None:
    """Remove a file, link or folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_unfinished: set[Path] = set()
"""What this process has begun to make, and not ended well."""


_QUIET_S = 0.3
_PATIENCE_S = 5.0
_LOOK_S = 0.02


def remove_unfinished() -> None:
    """Remove what an interrupted process leaves; whoever ends one calls this last.

    What a signal raises may come between any two steps, also between the making of a file and
    the block that removes it. And threads of libraries (zarr's) write on what they were given,
    and make the folders for it again; so what is removed must stay away for a moment.
    """
    quiet_since = time.monotonic()
    patience_s = _PATIENCE_S
    while _unfinished and quiet_since + _QUIET_S > time.monotonic() and patience_s > 0:
        present = [path for path in list(_unfinished) if path.exists()]
        for path in present:
            with suppress(OSError):  # it changed from file to folder meanwhile: once more
                remove_path(path)
        if present:
            quiet_since = time.monotonic()
        # Gigabytes take long to remove; only the waiting for others is limited.
        time.sleep(_LOOK_S)
        patience_s -= _LOOK_S
    _unfinished.clear()


_TOKEN = re.compile(
    r"(old-)?(?P<tag>[0-9a-z]+-[0-9a-f]+)-(?P<random>[0-9a-f]{16})-(?P<sign>[0-9a-f]{8})"
)


def _sign(name: str, rest: str) -> str:
    """Eight hex digits that only this program puts behind such a name."""
    return hashlib.sha256(f"pathology_scaat partial {name} {rest}".encode()).hexdigest()[:8]


def partial_path(final: Path, mark: str = "", tag: str | None = None) -> Path:
    """A new name beside ``final`` for what is not whole yet; ``tag`` is its maker's."""
    rest = f"{mark}{tag or owner_tag()}-{secrets.token_hex(8)}"
    return final.parent / f"{final.name}{PARTIAL_MARK}{rest}-{_sign(final.name, rest)}"


@dataclass(frozen=True)
class Partial:
    """An unfinished file or folder: whose artifact it was to be, and who was making it.

    Attributes
    ----------
    path : Path
    artifact : str
        Name of what it was to become.
    tag : str
        :func:`pathology_scaat.system.processes.owner_tag` of its maker.
    """

    path: Path
    artifact: str
    tag: str


def as_partial(path: Path) -> Partial | None:
    """What an unfinished file of this program says of itself; None for anybody else's.

    A name with ``.partial-`` alone is nobody's in particular (downloads are called so): the
    name must end with the digits that its beginning gives.
    """
    artifact, mark, rest = path.name.rpartition(PARTIAL_MARK)
    found = _TOKEN.fullmatch(rest) if mark and artifact else None
    if found is None or found["sign"] != _sign(artifact, rest[: found.end("random")]):
        return None
    return Partial(path, artifact, found["tag"])


_MARKED_FILES = (
    "zarr.json",
    ".zattrs",
    "0/.zattrs",
    "config.json",
    "OME/METADATA.ome.xml",
    "ome/zarr.json",
)
_MARK = b"pathology_scaat"
_MARK_BYTES = 1 << 22


def is_own_folder(folder: Path) -> bool:
    """Whether a folder is an artifact of this program: empty, or its metadata say so."""
    for name in _MARKED_FILES:
        with suppress(OSError):
            if _MARK in read_own(folder / name, _MARK_BYTES):
                return True
    with suppress(OSError):
        return next(iter(folder.iterdir()), None) is None
    return False


def require_own(path: Path) -> None:
    """Refuse to replace a folder that this program did not make.

    Raises
    ------
    StoreError
        If a folder with other content stands there.
    """
    if path.is_dir() and not path.is_symlink() and not is_own_folder(path):
        raise StoreError(
            path.name,
            "is a folder that this program did not make, and is not replaced",
            "move it away, or choose another folder",
        )


_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR}
"""What a rename says when another run has put its artifact there in between."""


def _moved(partial: Path, final: Path) -> bool:
    try:
        partial.replace(final)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _replace_folder(partial: Path, final: Path) -> bool:
    """Put a whole artifact in the place of a folder; False where another run was faster.

    Where the two can change names in one step there is no moment without either. Elsewhere the
    old one is moved aside first, and put back when the second move fails or is interrupted.
    """
    if exchange(partial, final):
        return True  # the old one is what is removed as unfinished now
    old = partial_path(final, "old-")
    try:
        with suppress(FileNotFoundError):
            final.rename(old)
        moved = _moved(partial, final)
    except BaseException:
        with suppress(OSError):
            if old.exists() and not final.exists():
                old.rename(final)
        raise
    _unfinished.add(old)
    remove_path(old)
    _unfinished.discard(old)
    return moved


def _publish(partial: Path, final: Path) -> None:
    """Move a whole artifact to its place, also where another run does the same right now."""
    for attempt in range(20):
        if final.is_dir() and not final.is_symlink():
            # What a signal raises between two moves would leave no artifact at all.
            with defer_signals():
                moved = _replace_folder(partial, final)
        else:
            moved = _moved(partial, final)
        if moved:
            return
        time.sleep(0.001 * attempt)
    raise StoreError(
        final.name, "cannot be moved to its place", "end what keeps it open, then run again"
    )


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a path beside ``final``; rename it into place when the block ends well.

    Works for files and folders. If the block raises, what was written is removed and
    ``final`` is as it was before. The name of the unfinished file says which process makes
    it (:func:`pathology_scaat.system.processes.owner_tag`), so that a later run may remove it.
    What is in its place lasts, also when the power fails (:mod:`pathology_scaat.system.fsync`).

    Raises
    ------
    StoreError
        If a folder stands there that this program did not make, or the move fails.
    """
    require_own(final)
    make_folder(final.parent)
    partial = partial_path(final)
    _unfinished.add(partial)
    try:
        yield partial
        if not partial.exists():
            raise StoreError(final.name, "was not written", "report this as a defect")
        sync_tree(partial)
        require_own(final)  # somebody may have put a folder of his there meanwhile
        _publish(partial, final)
        sync_folder(final.parent)
    finally:
        remove_path(partial)
    _unfinished.discard(partial)


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write indented JSON with sorted keys, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(
            json.dumps(value, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False)
            + "\n",
            encoding="utf-8",
        )


def write_text_if_changed(path: Path, text: str) -> bool:
    """Publish a text, or leave the file alone if it already holds it; whether it was written."""
    with suppress(OSError, UnicodeDecodeError):
        if path.read_bytes().decode("utf-8") == text:
            return False
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
    return True


MAX_JSON_BYTES = 1 << 28


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object that may come from anywhere: bounded in size.

    Raises
    ------
    StoreError
        If the file is absent, too large, damaged or not a JSON object.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise StoreError(path.name, f"is larger than {max_bytes >> 20} MiB", "check the file")
        value = json.loads(path.read_bytes())
    except StoreError:
        raise
    except FileNotFoundError:
        raise StoreError(path.name, "is not there", "make it again") from None
    except OSError as error:
        raise StoreError(
            path.name, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None
    except (ValueError, RecursionError):
        raise StoreError(path.name, "is not valid JSON", "make it again") from None
    if not isinstance(value, dict):
        raise StoreError(path.name, "is not a JSON object", "make it again")
    return value
