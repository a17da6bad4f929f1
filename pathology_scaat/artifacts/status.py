"""``slides.csv``: the one place where the status of a batch lives.

One row per slide, one column per stage, the reason in words. Every rewriting is a locked
read-merge-replace, so that the file is whole at every moment, and two runs on one folder
never lose each other's rows. A large table is not rewritten for every change: changes are
appended to a file beside it, which every reading here takes into account, and folded into the
table now and then and at the end of a stage (:mod:`.status_writer`).
"""

from __future__ import annotations

import csv
import errno
import io
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.status_changes import FILE_NAME as CHANGES_NAME
from pathology_scaat.artifacts.status_changes import (
    append_changes,
    changes_since,
    mark_folded,
    read_changes,
)
from pathology_scaat.artifacts.status_columns import (
    COLUMNS,
    FACTS,
    STAGES,
    Fact,
    Stage,
    State,
    StatusChange,
)
from pathology_scaat.artifacts.status_rows import (
    apply_changes,
    change_if_known,
    known_change,
    new_row,
    parse_rows,
    rows_of_artifacts,
)
from pathology_scaat.artifacts.table_cells import id_cell, safe_cell
from pathology_scaat.errors import StoreError
from pathology_scaat.system.locks import describe_os_error, file_lock
from pathology_scaat.system.own_files import LINK_WORDS, read_own
from pathology_scaat.system.text_table import NotTextError

LOGGER = logging.getLogger(__name__)

FILE_NAME = "slides.csv"
LOCK_NAME = ".slides.csv.lock"
UNREADABLE_NAME = "slides.unreadable.csv"
"""Where a status table goes that cannot be read; what a user wrote into it is not lost."""

MAX_BYTES = 256 << 20


def _unwritable(error: OSError) -> StoreError:
    return StoreError(
        FILE_NAME,
        f"cannot be written ({describe_os_error(error)})",
        "check the folder's permissions and free space, then run again",
    )


class StatusTable:
    """The status of each slide of an output folder.

    Parameters
    ----------
    out_dir : Path
        Output folder; the table is ``slides.csv`` in it.

    Notes
    -----
    States: ``pending`` (not begun, or not come to an end), ``done`` (its artifact is whole,
    whether made now or found right), ``skipped`` (left out on purpose; the reason says why),
    ``failed`` (the reason says why). Who is at work just now is said by the leases.
    """

    def __init__(self, out_dir: Path) -> None:
        self.path = Path(out_dir) / FILE_NAME
        self._lock_path = Path(out_dir) / LOCK_NAME
        self._changes_path = Path(out_dir) / CHANGES_NAME

    def _keep_unreadable(self) -> None:
        """Put a table that is none aside before another is written in its place."""
        problem = self.problem()
        if problem is None:
            return
        LOGGER.warning("%s %s: it is made anew from the artifacts", FILE_NAME, problem)
        kept = self.path.with_name(UNREADABLE_NAME)
        number = 1
        while os.path.lexists(kept):
            number += 1
            kept = self.path.with_name(UNREADABLE_NAME.replace(".csv", f"-{number}.csv"))
        with suppress(OSError):
            self.path.rename(kept)

    def plan(self, slide_ids: Iterable[str], patients: Mapping[str, str] | None = None) -> None:
        """Give each slide of a manifest a row, in its order; other slides' rows follow.

        ``patients`` are what fills the column ``patient``, by slide id. The column
        ``in_manifest`` says ``yes`` of the manifest's slides and ``no`` of the others: what is
        there of these is of earlier runs.
        """
        with file_lock(self._lock_path):
            known = {row["slide_id"]: row for row in self.rows()}
            keys = list(dict.fromkeys(map(id_cell, slide_ids)))
            ordered = {key: known.pop(key) if key in known else new_row(key) for key in keys}
            for slide_id, patient in (patients or {}).items():
                if (row := ordered.get(id_cell(slide_id))) is not None:
                    row["patient"] = safe_cell(patient)
            for row in ordered.values():
                row["in_manifest"] = "yes"
            for row in known.values():
                row["in_manifest"] = "no"
            self._write([*ordered.values(), *known.values()])

    def update(
        self, slide_id: str, stage: Stage, state: State, reason: str = "", **facts: Fact
    ) -> None:
        """Set one stage of one slide, and what became known about the slide.

        Parameters
        ----------
        slide_id : str
            Slide of the row; a row is added at the end where there is none.
        stage, state
            One of `STAGES` and one of `STATES`. ``done`` also for an artifact that was found
            right: a run that was interrupted and repeated gives the same table.
        reason : str
            The one sentence for ``failed`` or ``skipped``. The reason of a stage that
            has failed before goes when the stage begins anew.
        **facts
            Values for the columns named in `FACTS`; None leaves a cell as it was.
        """
        self.update_many([(slide_id, stage, state, reason, facts)])

    def update_many(self, changes: Iterable[StatusChange]) -> None:
        """Several :meth:`update` calls in one rewrite of the file."""
        with file_lock(self._lock_path):
            rows = self.rows()
            apply_changes(rows, map(known_change, changes))
            self._write(rows)

    def append_many(self, changes: Iterable[StatusChange]) -> None:
        """As :meth:`update_many`, without rewriting the file: a later rewriting takes them along.

        Until then they are seen by what reads the table with this class, and by nobody else.
        """
        known = list(map(known_change, changes))
        try:
            with file_lock(self._lock_path):
                appended = append_changes(self._changes_path, known)
        except OSError as error:
            raise _unwritable(error) from None
        if not appended:
            self.update_many(known)

    def set_facts(self, facts: Mapping[str, Mapping[str, Fact]]) -> None:
        """What became known about slides that no stage did; an empty text empties a cell.

        Parameters
        ----------
        facts : mapping of slide id to facts
            Values for the columns named in `FACTS`. Slides without a row get none.
        """
        with file_lock(self._lock_path):
            rows = self.rows()
            by_id = {row["slide_id"]: row for row in rows}
            for slide_id, values in facts.items():
                if not set(values) <= set(FACTS):
                    raise ValueError(f"no such fact: {values}")
                if (row := by_id.get(id_cell(slide_id))) is not None:
                    row.update({k: safe_cell(v) for k, v in values.items() if v is not None})
            if rows:
                self._write(rows)

    def rows(self) -> list[dict[str, str]]:
        """All rows, in order; empty where there is no table yet.

        A table that a spreadsheet program has saved is read however it spells it. One that is
        empty, torn or no status table at all is no loss: its rows are then made from the
        artifacts in the folder (see :meth:`problem`).

        Raises
        ------
        StoreError
            If the file cannot be opened.
        """
        # First the changes: whoever folds them in meanwhile has them in the table before they go.
        waiting = read_changes(self._changes_path)
        rows, _, raw = self._read()
        changes = changes_since(waiting, raw)
        apply_changes(rows, filter(None, map(change_if_known, changes)))
        return rows

    def problem(self) -> str | None:
        """Why the file cannot be read as a status table, in words; None where it can be.

        Its rows are then those of the artifacts that are in the folder.

        Raises
        ------
        StoreError
            If the file cannot be opened.
        """
        return self._read()[1]

    def _read(self) -> tuple[list[dict[str, str]], str | None, bytes]:
        """Rows, why they are not the file's, and what the file holds."""
        try:
            raw = read_own(self.path, MAX_BYTES)
        except FileNotFoundError:
            return [], None, b""
        except OSError as error:
            if error.errno == errno.ELOOP:
                return rows_of_artifacts(self.path.parent), LINK_WORDS, b""
            # It is there and may be right: to write another over it would lose it.
            raise StoreError(
                FILE_NAME, f"cannot be read ({describe_os_error(error)})", "check its permissions"
            ) from None
        try:
            return parse_rows(raw), None, raw
        except (NotTextError, csv.Error, ValueError) as error:
            return rows_of_artifacts(self.path.parent), str(error) or "is no table", raw

    def failed(self) -> list[dict[str, str]]:
        """The rows in which any stage failed."""
        return [row for row in self.rows() if any(row[stage] == "failed" for stage in STAGES)]

    def without_failed(self, stage: Stage, slide_ids: Iterable[str]) -> list[str]:
        """The slides whose last attempt at a stage did not fail, in the order given.

        An artifact that lies there of a slide that has failed since is of an earlier run: the
        slide may be another one by now.
        """
        failed = {row["slide_id"] for row in self.rows() if row[stage] == "failed"}
        return [slide_id for slide_id in slide_ids if id_cell(slide_id) not in failed]

    def column(self, name: str) -> dict[str, str]:
        """Slide id, as its cell says it (:func:`id_cell`), to a column; empty cells left out."""
        return {row["slide_id"]: row[name] for row in self.rows() if row[name]}

    def not_in_manifest(self) -> list[str]:
        """Ids of slides that the manifest of the last run or tiling does not name."""
        return [row["slide_id"] for row in self.rows() if row["in_manifest"] == "no"]

    def _write(self, rows: list[dict[str, str]]) -> None:
        self._keep_unreadable()
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        raw = text.getvalue().encode("utf-8")
        try:
            with suppress(OSError):  # at worst they are folded in twice
                mark_folded(self._changes_path, raw)
            with atomic_path(self.path) as partial:
                partial.write_bytes(raw)
            self._changes_path.unlink(missing_ok=True)  # they are in the table now
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise _unwritable(error) from None
