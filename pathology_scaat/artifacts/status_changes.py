"""Changes of the status table that wait to be folded into it: one JSON line each, only appended.

To write the whole of a table of 10,000 slides takes a fifth of a second; to append what one slide
did takes none. Before a table with the changes in it takes its place, its hash is appended here
too: changes that stand before the hash of the table that is there are in it already. So it does
not matter when a run is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from pathology_scaat.system.own_files import append_own, read_own

FILE_NAME = ".slides.csv.changes"
MAX_BYTES = 16 << 20
"""From this size on the changes are folded into the table before others come."""

Change: TypeAlias = tuple[str, str, str, str, Mapping[str, str | int | float | None]]
"""Slide id, stage, state, reason, facts."""


def append_changes(path: Path, changes: Iterable[Change]) -> bool:
    """Add changes to the file; False, and nothing is added, where it has grown too large.

    Raises
    ------
    OSError
        If it cannot be written, or is a link or a special file.
    """
    if _size(path) >= MAX_BYTES:
        return False
    # A line that a killed process left torn must not swallow the next one: each begins a line.
    text = "".join("\n" + json.dumps(change, default=str) for change in changes)
    append_own(path, text + "\n", max_bytes=2 * MAX_BYTES)
    return True


def mark_folded(path: Path, table: bytes) -> None:
    """Record in the file of changes that a table holds all changes so far.

    Called before that table replaces ``slides.csv``: whoever reads the file later finds the
    table's hash in it and applies only the changes after it.

    Parameters
    ----------
    path : Path
        The file of changes; left alone while it is empty or missing.
    table : bytes
        The whole new table, whose hash is recorded.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    if _size(path):
        append_own(path, f"\n{json.dumps(_hash(table))}\n", max_bytes=4 * MAX_BYTES)


def read_changes(path: Path) -> bytes:
    """The file as it is; empty where there is none that is ours."""
    try:
        return read_own(path, 4 * MAX_BYTES)
    except OSError:
        return b""


def changes_since(raw: bytes, table: bytes) -> list[Change]:
    """The changes that a table does not hold yet, in order.

    Parameters
    ----------
    raw : bytes
        Of :func:`read_changes`. Lines that are none (torn when a process was killed) do not count.
    table : bytes
        The table as it is in its file.
    """
    if not raw:
        return []
    here = _hash(table)
    found: list[Change] = []
    for line in raw.decode("utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
            if value == here:
                found = []
                continue
            slide_id, stage, state, reason, facts = value
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(facts, dict) and all(
            isinstance(text, str) for text in (slide_id, stage, state, reason)
        ):
            found.append((slide_id, stage, state, reason, facts))
    return found


def _hash(table: bytes) -> str:
    return hashlib.sha256(table).hexdigest()


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
