"""Telling that memory ran out, and whether somebody has set a limit to it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from pathology_scaat.errors import UsageError
from pathology_scaat.system.disk_errors import disk_error

LEAST_BYTES: Final = 1 << 30
"""Measured: tiling with one thread begins to work at 900 MiB of address space."""

REMEDY: Final = "give it more memory, or use fewer --workers"

# What torch, tensorstore, the dynamic loader and pthreads say; none has an error of its own.
_WORDS: Final = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "failed to map segment",
    "bad_alloc",
    "can't start new thread",
    "resource_exhausted",
    "unable to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is that memory ran out."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return False
        if isinstance(seen, MemoryError) or getattr(seen, "errno", None) == errno.ENOMEM:
            return True
        text = str(seen).casefold()
        # A full disk is "exhausted" too, in some libraries' words.
        if disk_error(seen) is None and any(word in text for word in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def is_limited() -> bool:
    """Whether this process has less memory to itself than the machine has.

    Where it has, a library that is refused memory may end the whole process, and the system
    kills the largest one: work is then better done in a process of its own.
    """
    return _address_space() is not None or _group_is_limited()


def require_memory() -> None:
    """Refuse to begin where the libraries alone do not fit: some hang instead of failing.

    Raises
    ------
    UsageError
        If the address space is limited to less than `LEAST_BYTES` (``ulimit -v``).
    """
    room = _address_space()
    if room is not None and room < LEAST_BYTES:
        raise UsageError(
            "the memory limit",
            f"leaves {room >> 20} MiB, and the libraries alone need {LEAST_BYTES >> 20} MiB",
            "raise it (ulimit -v)",
        )


def _address_space() -> int | None:
    """Bytes of address space that this process may use; None where nothing limits it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    finite = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    return min(finite) if finite else None


def _group_is_limited(root: Path = Path("/sys/fs/cgroup")) -> bool:
    """Linux control groups, version 2 (``memory.max``) or 1; as containers and queues set them."""
    with suppress(OSError, ValueError, AttributeError):
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            base, name = root, "memory.max"
            if controllers:
                if "memory" not in controllers.split(","):
                    continue
                base, name = root / "memory", "memory.limit_in_bytes"
            own = base / path.lstrip("/")
            # Inside a container the path is the host's; its own group is then the root.
            folders = [own, *own.parents] if own.is_dir() else [base]
            for folder in folders:
                with suppress(OSError, ValueError):
                    if int((folder / name).read_text(encoding="ascii")) < machine:
                        return True
    return False
