"""Many changes of the status table, written together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import StatusChange
from pathology_scaat.errors import ScaatError

FLUSH_AFTER_S = 0.5
"""Changes of the status table within this time are written together."""

BOOKKEEPING_SHARE = 0.01
"""Most of the time that may go into rewriting the table, however long it is."""


class StatusWriter:
    """Writes changes of the status table soon, and many at once.

    A write is of the whole table as long as that costs next to nothing; of a large one changes
    are appended, and folded in when rewriting has become cheap beside the time that has passed.
    When a run is killed the file itself may be so much behind; what has been appended is seen by
    every later command and folded in by it, and what was not even appended (of the last half
    second) is a row of which the next run finds that its artifact is there.

    Parameters
    ----------
    status : StatusTable
    """

    def __init__(self, status: StatusTable) -> None:
        self._status = status
        self._changes: list[StatusChange] = []
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._rewritten = float("-inf")
        self._cost_s = 0.0
        self._appended = False
        self._error: ScaatError | None = None

    def add(self, changes: Sequence[StatusChange]) -> None:
        """Have changes written within about a second.

        Raises
        ------
        ScaatError
            If an earlier write failed.
        """
        with self._guard:
            self._changes += changes
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_AFTER_S, self._write_late)
                self._timer.daemon = True
                self._timer.start()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write_late(self) -> None:
        try:
            self._write()
        except ScaatError as error:
            self._error = error

    def _write(self, whole: bool = False) -> None:
        """Write what waits: the whole table where that is asked for or cheap, else at its end."""
        with self._writing:
            with self._guard:
                changes, self._changes = self._changes, []
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
            if not changes and not (whole and self._appended):
                return
            began = time.monotonic()
            if not whole and began - self._rewritten < self._cost_s / BOOKKEEPING_SHARE:
                self._status.append_many(changes)
                self._appended = True
                return
            self._status.update_many(changes)
            self._rewritten, self._appended = time.monotonic(), False
            self._cost_s = self._rewritten - began

    def close(self) -> None:
        """Write what is not written yet, into the table itself.

        Raises
        ------
        ScaatError
            If the table cannot be written.
        """
        self._write(whole=True)
        self._raise_error()
