"""Progress of a command: bars on a terminal, elsewhere a line with the time now and then."""

from __future__ import annotations

import time
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pathology_scaat.cli import output
from pathology_scaat.cli.pace import Pace
from pathology_scaat.system.amounts import in_time
from pathology_scaat.system.rounding import done_percent

LINE_AFTER_S = 15.0
"""Seconds between two lines at first."""

LINE_SHARE = 0.05
"""Later, the share of a stage's time: a night gives some dozens of lines, not thousands."""

LINE_WITHIN_S = 600.0


class TerminalReporter:
    """Shows progress bars on a terminal; elsewhere writes a line with the time now and then."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bars = console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("[bold]{task.description:>8}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not self._bars,
        )
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._done: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, stage: str, total: int) -> None:
        self._totals[stage], self._done[stage] = total, 0.0
        self._started[stage] = time.monotonic()
        self._paces[stage] = Pace(total, self._started[stage])
        self._tasks[stage] = self._progress.add_task(stage, total=total, text="")
        self._line(f"{stage}: {total} to do")

    def advance(self, stage: str, text: str = "") -> None:
        self.update(stage, int(self._done[stage]) + 1, text)

    def update(self, stage: str, completed: float, text: str = "") -> None:
        self._done[stage] = completed
        self._progress.update(self._tasks[stage], completed=completed, text=text)
        now = time.monotonic()
        pace = self._paces[stage]
        pace.at(now, completed)
        wait_s = (now - self._started[stage]) * LINE_SHARE
        if now - self._last_line > min(max(wait_s, LINE_AFTER_S), LINE_WITHIN_S):
            total = max(self._totals[stage], 1)
            left_s = pace.left_s(now)
            left = f"about {in_time(left_s)} left" if left_s is not None else "time left not known"
            parts = [done_percent(completed, total), *([text] if text else []), left]
            self._line(f"{stage}: {', '.join(parts)}")

    def end(self, stage: str) -> None:
        seconds = time.monotonic() - self._started[stage]
        self._progress.update(self._tasks[stage], completed=self._totals[stage])
        self._line(f"{stage}: done in {seconds:.1f} s")

    def note(self, text: str) -> None:
        output.note(text)
        if not self._quiet:
            self._console.print(
                f"{self._time()}note: {text}", style="yellow", markup=False, highlight=False,
                soft_wrap=True,
            )  # fmt: skip

    def _time(self) -> str:
        """The time of the line, where lines go to a file that is read later."""
        return "" if self._bars else f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} "

    def _line(self, text: str) -> None:
        if not self._bars and not self._quiet:
            self._console.print(f"{self._time()}{text}", markup=False, highlight=False,
                                soft_wrap=True)  # fmt: skip
            self._last_line = time.monotonic()
