"""Verdicts of reviewers: an append-only table in ``review/verdicts.csv``.

A verdict is never changed: a later row about the same region by the same reviewer replaces it, and
an ``undo`` row takes the last one back. No row holds a date.
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from pathology_scaat.artifacts.table_cells import safe_cell
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.system.locks import describe_os_error, file_lock
from pathology_scaat.system.own_files import append_durably

FILE_NAME = "verdicts.csv"
LOCK_NAME = ".verdicts.csv.lock"
FOLDER = "review"

Answer = Literal["yes", "no", "unsure", "undo"]
ANSWERS: tuple[str, ...] = get_args(Answer)
UNDO = "undo"
"""Takes the reader's last answer about the region back."""
WHOLE_SLIDE = "slide"
"""Stands for the region where a verdict is about the whole slide."""
MAX_NOTE = 400


@dataclass(frozen=True)
class Verdict:
    """What one reviewer says about one region (or a whole slide).

    Attributes
    ----------
    reviewer, slide_id, region_id : str
    target_class : str
        The class that the region was marked for; "yes" says that it is there.
    answer : {"yes", "no", "unsure", "undo"}
    blind : bool
        Given before the map was shown.
    seconds : float or None
        Time from showing the region to the answer, where that was asked for.
    note : str
    """

    reviewer: str
    slide_id: str
    region_id: str
    target_class: str
    answer: str
    blind: bool = False
    seconds: float | None = None
    note: str = ""

    def checked(self) -> Verdict:
        """The verdict itself.

        Raises
        ------
        UsageError
            If the answer is unknown, a name is missing, or the note is too long.
        """
        if self.answer not in ANSWERS:
            raise UsageError(
                "the verdict", f"'{self.answer}' is no answer", "use yes, no or unsure"
            )
        if not self.reviewer.strip() or not self.slide_id or not self.region_id:
            raise UsageError("the verdict", "names no reviewer, slide or region", "give all three")
        if len(self.note) > MAX_NOTE or len(self.reviewer) > 80:
            raise UsageError("the note", f"is longer than {MAX_NOTE} characters", "shorten it")
        return self


COLUMNS = tuple(field.name for field in fields(Verdict))


class VerdictTable:
    """The verdicts of an output folder.

    Parameters
    ----------
    out : Path
        Output folder of a run; nothing but its folder ``review`` is ever written.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER
        self.path = self.folder / FILE_NAME
        self._lock = threading.Lock()

    def append(self, verdict: Verdict) -> None:
        """Add a row; it is on the disk when this returns.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        verdict.checked()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock, file_lock(self.folder / LOCK_NAME):
                if not self.path.exists():
                    writer.writerow(COLUMNS)
                writer.writerow(_cells(verdict))
                append_durably(self.path, text.getvalue())
        except OSError as error:
            raise StoreError(
                FILE_NAME, f"cannot be written ({describe_os_error(error)})",
                "check free disk space and permissions",
            ) from None  # fmt: skip

    def rows(self) -> tuple[Verdict, ...]:
        """All rows as written.

        Raises
        ------
        StoreError
            If the file is not a table of verdicts.
        """
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as stream:
                return tuple(_verdict(row) for row in csv.DictReader(stream))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            raise StoreError(FILE_NAME, "is not a table of verdicts", "move it away") from None

    def current(self) -> dict[tuple[str, str, str], Verdict]:
        """The verdict that holds, by reviewer, slide and region."""
        return latest_verdicts(self.rows())


def histories(rows: Iterable[Verdict]) -> dict[tuple[str, str, str], list[Verdict]]:
    """Answers by reviewer, slide and region, in order, without those that were taken back."""
    history: dict[tuple[str, str, str], list[Verdict]] = {}
    for row in rows:
        answers = history.setdefault((row.reviewer, row.slide_id, row.region_id), [])
        if row.answer == UNDO:
            answers[-1:] = []
        else:
            answers.append(row)
    return history


def latest_verdicts(rows: Iterable[Verdict]) -> dict[tuple[str, str, str], Verdict]:
    """Replay rows in order: the last answer holds, ``undo`` brings back the one before."""
    return {key: answers[-1] for key, answers in histories(rows).items() if answers}


def _cells(verdict: Verdict) -> list[str]:
    values = asdict(verdict)
    values["blind"] = "yes" if verdict.blind else "no"
    return [safe_cell(values[name]) for name in COLUMNS]


def _verdict(row: dict[str, str]) -> Verdict:
    seconds = row["seconds"]
    verdict = Verdict(
        reviewer=row["reviewer"],
        slide_id=row["slide_id"],
        region_id=row["region_id"],
        target_class=row["target_class"],
        answer=row["answer"],
        blind=row["blind"] == "yes",
        seconds=float(seconds) if seconds else None,
        note=row["note"],
    )
    if verdict.answer not in ANSWERS:
        raise ValueError(verdict.answer)
    return verdict
