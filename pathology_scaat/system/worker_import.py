"""A script that starts its work where it is imported: every worker process imports it again.

Python starts a worker process by importing the user's script in it, so that what the script
defines is known there. A script that is not under ``if __name__ == "__main__":`` would do its whole
work again in each of them.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import Final

from pathology_scaat.errors import UsageError

IMPORTED_AGAIN: Final = 97
"""Exit code of a worker whose import of the user's script came to the start of work."""


def end_if_imported_by_worker() -> None:
    """End this process where it is a worker that still imports the user's script.

    To be called before any work, and before anything is written: the process that started this
    one says what is wrong (:func:`imported_again`), once and not in every worker.
    """
    # set by multiprocessing.spawn while it prepares the process, which includes that import
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(IMPORTED_AGAIN)


def imported_again() -> UsageError:
    """What a user is told whose script starts its work where it is imported."""
    return UsageError(
        "the script",
        "starts its work where it is imported, which every worker process does",
        "put what it does under 'if __name__ == \"__main__\":', or ask for no worker processes",
    )
