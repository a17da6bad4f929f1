"""What was read of a file, kept as long as the file stays the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
KEPT = 4


def same_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Keep what the last few files held, by path, size, number and time of change.

    What is read must be a value that nobody changes. A file that is not there is read anew each
    time, and says so.
    """
    held: OrderedDict[tuple[str, int, int, int], T] = OrderedDict()
    lock = threading.Lock()

    @wraps(read)
    def cached(path: Path) -> T:
        try:
            found = path.stat()
        except OSError:
            return read(path)
        key = (str(path), found.st_ino, found.st_size, found.st_mtime_ns)
        with lock:
            if key in held:
                held.move_to_end(key)
                return held[key]
        value = read(path)
        with lock:
            held[key] = value
            while len(held) > KEPT:
                held.popitem(last=False)
        return value

    return cached
