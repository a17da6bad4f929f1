"""Telling that memory ran out from the many ways in which libraries say so."""

from __future__ import annotations

import errno
from typing import Final

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
        if any(word in text for word in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
