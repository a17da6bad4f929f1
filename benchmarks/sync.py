"""What it costs to have artifacts on the disk before they are renamed into place.

``python benchmarks/sync.py [FOLDER]`` writes files of several sizes and numbers into a folder
of the disk in question, and prints the seconds of writing them, of syncing them side by side
(as the program does) and one after the other.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pathology_scaat.system.fsync import sync_file, sync_tree

CASES = ((1, 2_000), (20, 16 << 20), (200, 1 << 20), (2000, 4_000))


def written(folder: Path, n_files: int, n_bytes: int) -> float:
    content = os.urandom(n_bytes)
    folder.mkdir()
    began = time.perf_counter()
    for number in range(n_files):
        (folder / str(number)).write_bytes(content)
    return time.perf_counter() - began


def one_by_one(folder: Path) -> None:
    for path in folder.iterdir():
        sync_file(path)
    sync_file(folder)


def main() -> None:
    scratch = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        print("files    bytes   write s  side by side s  one by one s")
        for n_files, n_bytes in CASES:
            write_s = written(scratch / "a", n_files, n_bytes)
            began = time.perf_counter()
            sync_tree(scratch / "a")
            side_s = time.perf_counter() - began
            shutil.rmtree(scratch / "a")
            written(scratch / "b", n_files, n_bytes)
            began = time.perf_counter()
            one_by_one(scratch / "b")
            one_s = time.perf_counter() - began
            shutil.rmtree(scratch / "b")
            print(f"{n_files:5d} {n_bytes:8d} {write_s:9.2f} {side_s:15.2f} {one_s:13.2f}")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
