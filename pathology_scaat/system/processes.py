"""Who is at work: telling a living process from a dead one without naming anybody; how many may.

A lease or an unfinished file carries the pid of its maker and a short digest of the machine's
boot and process namespace. A later run on the same machine sees at once that the maker is
dead; a run on another machine sees only that it cannot know. The digest says nothing about
the machine: it is made from a random number that changes with every boot.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path


@cache
def machine_id() -> str:
    """Six hex digits for this boot and pid namespace; empty where the system says neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:6]


def start_ticks(pid: int) -> int:
    """Clock ticks since boot at which a process began; 0 where there is no such process.

    With it a pid that was given to another process later is not taken for the first one.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # Fields after the command, which stands in brackets and may hold spaces: proc(5).
        fields = text.rpartition(")")[2].split()
        return 0 if fields[0] in {"Z", "X"} else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def owner_tag() -> str:
    """``machine-pid`` of this process in hex, for names of unfinished files."""
    return f"{machine_id() or 'elsewhere'}-{os.getpid():x}"


def owner_is_dead(tag: str) -> bool:
    """Whether a file's owner is known to have ended; False also where nobody can know."""
    where, _, pid = tag.partition("-")
    if not machine_id() or where != machine_id():
        return False
    try:
        return start_ticks(int(pid, 16)) == 0
    except ValueError:
        return False


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
