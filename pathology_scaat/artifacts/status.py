"""``slides.csv``: the one place where the status of a batch lives.

A row a slide, a column a stage, the reason in words. Every change is a locked
read-merge-replace, so that the file is whole at every moment, and two runs on one folder
never lose each other's rows.
"""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.errors import StoreError
from pathology_scaat.system.locks import describe_os_error, file_lock

FILE_NAME = "slides.csv"
LOCK_NAME = ".slides.csv.lock"

Stage = Literal["tile", "explain", "stitch", "export"]
State = Literal["pending", "running", "done", "skipped", "failed"]
Fact = str | int | float | None

STAGES: Final[tuple[Stage, ...]] = ("tile", "explain", "stitch", "export")
STATES: Final[tuple[State, ...]] = ("pending", "running", "done", "skipped", "failed")
FACTS: Final = (
    "n_patches",
    "n_unreadable",
    "mpp",
    "mpp_source",
    "reader",
    "split",
    "unlike_training",
    "notes",
)
COLUMNS: Final = ("slide_id", *STAGES, "reason", *FACTS)

MAX_TEXT = 500
_FORMULA_START = ("=", "+", "-", "@")


def safe_cell(value: object) -> str:
    """A value as one line of text that no spreadsheet takes for a formula.

    Numbers keep their shortest exact spelling; line breaks and control characters become
    spaces; a text that begins with ``= + - @`` gets an apostrophe before it (OWASP, CSV
    injection).
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    spaced = "".join(" " if unicodedata.category(c) in {"Cc", "Cs"} else c for c in str(value))
    text = " ".join(spaced.split())
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT - 3]}..."
    return f"'{text}" if text.startswith(_FORMULA_START) else text


class StatusTable:
    """The status of each slide of an output folder.

    Parameters
    ----------
    out_dir : Path
        Output folder; the table is ``slides.csv`` in it.

    Notes
    -----
    States: ``pending`` (not begun), ``running`` (begun; if no run is alive, it was
    interrupted), ``done`` (its artifact is whole, whether made now or found right),
    ``skipped`` (left out on purpose; the reason says why), ``failed`` (the reason says why).
    """

    def __init__(self, out_dir: Path) -> None:
        self.path = Path(out_dir) / FILE_NAME
        self._lock_path = Path(out_dir) / LOCK_NAME

    def plan(self, slide_ids: Iterable[str]) -> None:
        """Give each slide of a manifest a row, in its order; other slides' rows follow.

        A slide that an earlier run left ``running`` keeps that word until its stage begins
        anew.
        """
        with file_lock(self._lock_path):
            known = {row["slide_id"]: row for row in self.rows()}
            keys = list(dict.fromkeys(map(safe_cell, slide_ids)))
            ordered = {key: known.pop(key) if key in known else self._new_row(key) for key in keys}
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

    def update_many(
        self, changes: Iterable[tuple[str, Stage, State, str, Mapping[str, Fact]]]
    ) -> None:
        """Several :meth:`update` calls in one rewrite of the file."""
        with file_lock(self._lock_path):
            rows = self.rows()
            by_id = {row["slide_id"]: row for row in rows}
            for slide_id, stage, state, reason, facts in changes:
                if stage not in STAGES or state not in STATES or not set(facts) <= set(FACTS):
                    raise ValueError(f"no such stage, state or fact: {stage}, {state}, {facts}")
                key = safe_cell(slide_id)
                if key not in by_id:
                    by_id[key] = self._new_row(key)
                    rows.append(by_id[key])
                self._apply(by_id[key], stage, state, reason, facts)
            self._write(rows)

    def rows(self) -> list[dict[str, str]]:
        """All rows as written, in order; empty where there is no table yet.

        Raises
        ------
        StoreError
            If the file is not a status table.
        """
        try:
            with self.path.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                rows = [{c: row.get(c) or "" for c in COLUMNS} for row in reader]
                header = reader.fieldnames
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            words = describe_os_error(error) if isinstance(error, OSError) else "not CSV text"
            raise StoreError(FILE_NAME, f"cannot be read ({words})", "move it away") from None
        if header is None or not {"slide_id", *STAGES} <= set(header):
            raise StoreError(
                FILE_NAME, "is not a status table of this program", "choose another --out folder"
            )
        return rows

    def failed(self) -> list[dict[str, str]]:
        """The rows in which any stage failed."""
        return [row for row in self.rows() if any(row[stage] == "failed" for stage in STAGES)]

    @staticmethod
    def _new_row(slide_id: str) -> dict[str, str]:
        return (
            dict.fromkeys(COLUMNS, "") | dict.fromkeys(STAGES, "pending") | {"slide_id": slide_id}
        )

    @staticmethod
    def _apply(
        row: dict[str, str], stage: Stage, state: State, reason: str, facts: Mapping[str, Fact]
    ) -> None:
        had_failed = row[stage] in {"failed", "skipped"}
        row[stage] = state
        if reason:
            row["reason"] = safe_cell(reason)
        elif had_failed or not any(row[s] in {"failed", "skipped"} for s in STAGES):
            row["reason"] = ""
        for name, value in facts.items():
            if value is not None:
                row[name] = safe_cell(value)

    def _write(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        try:
            with atomic_path(self.path) as partial:
                partial.write_text(text.getvalue(), encoding="utf-8")
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                FILE_NAME,
                f"cannot be written ({describe_os_error(error)})",
                "check the folder's permissions and free space, then run again",
            ) from None
