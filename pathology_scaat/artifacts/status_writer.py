"""Many changes of the status table, written together."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pathology_scaat.artifacts.status import Fact, Stage, State, StatusTable
from pathology_scaat.errors import ScaatError

StatusChange: TypeAlias = tuple[str, Stage, State, str, Mapping[str, Fact]]
"""Slide id, stage, state, reason, facts: as :meth:`StatusTable.update` takes them."""

FLUSH_AFTER_S = 0.5
"""Changes of the status table within this time are written together."""

BOOKKEEPING_SHARE = 0.1
"""Most of the time that may go into rewriting the table, however long it is."""


class StatusWriter:
    """Writes changes of the status table soon, many at once: each write is of the whole table.

    One write per slide would cost more than the work of a large cohort. What is not written when
    a run is killed is a row that still says ``pending`` although its artifact is there, which the
    next run finds.

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
        self._delay_s = FLUSH_AFTER_S
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
                self._timer = threading.Timer(self._delay_s, self._write_late)
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

    def _write(self) -> None:
        with self._writing:
            with self._guard:
                changes, self._changes = self._changes, []
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
            if not changes:
                return
            began = time.monotonic()
            self._status.update_many(changes)
            taken_s = time.monotonic() - began
            self._delay_s = max(FLUSH_AFTER_S, taken_s / BOOKKEEPING_SHARE)

    def close(self) -> None:
        """Write what is not written yet.

        Raises
        ------
        ScaatError
            If the table cannot be written.
        """
        self._write()
        self._raise_error()
