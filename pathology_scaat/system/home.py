"""A process without a home, or without a user's name: what container images start.

``docker run --user`` and Apptainer start processes whose user is in no table and whose home is
absent or read-only. matplotlib, torch and torchvision then fail as they are imported. A folder
below the system's temporary one stands in.
"""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

STAND_IN_USER = "user"


def home_folder() -> Path | None:
    """The user's home; None where the user has none that is known."""
    home = os.path.expanduser("~")
    return Path(home) if os.path.isabs(home) else None


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, tried."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@cache
def private_temporary_folder() -> Path | None:
    """A folder below the system's temporary one that is this user's alone; None if none can be.

    Code is loaded from it: one that somebody else made, or may write, is not taken.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else ""
    try:
        folder = Path(tempfile.gettempdir()) / f"pathology-scaat-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or not is_writable(folder):
        return None
    if os.name == "posix" and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        return None
    return folder


def _can_be_made(folder: Path) -> bool:
    """Whether a folder, or the nearest above it that exists, may be written."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return existing is not None and os.access(existing, os.W_OK | os.X_OK)


def ensure_home() -> None:
    """Give this process, and those it starts, a home and a user's name where it has none.

    What the environment says already is left as it is.
    """
    try:
        getpass.getuser()
    except (OSError, KeyError, ImportError):
        os.environ.setdefault("USER", STAND_IN_USER)
    home = home_folder()
    if home is None:
        fallback = private_temporary_folder()
        if fallback is not None:
            os.environ["HOME"] = str(fallback)
    elif "MPLCONFIGDIR" not in os.environ:
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "matplotlib"
        if os.name == "posix" and not _can_be_made(config):
            fallback = private_temporary_folder()
            if fallback is not None:
                os.environ["MPLCONFIGDIR"] = str(fallback / "matplotlib")
