"""What dead runs left behind in an output folder: unfinished artifacts, and leases."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from pathology_scaat.artifacts.atomic import PARTIAL_MARK, Partial, as_partial, remove_path
from pathology_scaat.artifacts.leases import is_leased, remove_dead_lease
from pathology_scaat.system.processes import owner_is_dead

PARTIAL_KEEP_S = 24 * 3600.0
"""Unfinished files of makers on other machines are kept this long before they are removed."""


def _newest_mtime(path: Path) -> float:
    times = [path.lstat().st_mtime]
    if path.is_dir() and not path.is_symlink():
        for folder, _, files in os.walk(path):
            with suppress(OSError):
                times.append(os.lstat(folder).st_mtime)
                times.extend(os.lstat(os.path.join(folder, f)).st_mtime for f in files)
    return max(times)


def find_partials(out_dir: Path) -> list[Partial]:
    """All unfinished files and folders of this program in an output folder, by name.

    Artifacts stand in the folder and one below it; inside of artifacts nothing is unfinished.
    Folders that are links are somebody's elsewhere, and are not looked into.
    """
    found = []
    for folder in _own_folders(out_dir):
        with suppress(OSError):
            found += [p for p in map(as_partial, folder.glob(f"*{PARTIAL_MARK}*")) if p]
    return sorted(found, key=lambda partial: partial.path)


def _own_folders(out_dir: Path) -> list[Path]:
    """The output folder and those in it that artifacts lie in; no links, nothing unfinished."""
    folders = [out_dir]
    with suppress(OSError):
        folders += [
            path
            for path in out_dir.iterdir()
            if path.is_dir() and not path.is_symlink() and PARTIAL_MARK not in path.name
        ]
    return folders


def sweep_leases(out_dir: Path) -> None:
    """Remove the leases of processes of this machine that are known to be dead."""
    for folder in _own_folders(out_dir):
        for path in folder.glob(".*.lease"):
            remove_dead_lease(path)


def sweep_partials(out_dir: Path, *, older_than_s: float = PARTIAL_KEEP_S) -> list[str]:
    """Remove what dead runs left unfinished; return the names of the artifacts concerned.

    Removed are the files whose maker is known to be dead, and those of unknown makers that
    have not changed for `older_than_s` and whose artifact is not leased.
    """
    removed = []
    for partial in find_partials(out_dir):
        try:
            dead = owner_is_dead(partial.tag) or (
                time.time() - _newest_mtime(partial.path) > older_than_s
                and not is_leased(partial.path.parent / partial.artifact)
            )
        except FileNotFoundError:
            continue  # its maker has just finished it
        if dead:
            remove_path(partial.path)
            removed.append(partial.artifact)
    return sorted(set(removed))
