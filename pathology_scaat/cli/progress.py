"""Progress of a command on a terminal (bars) or in a log (a line now and then)."""

from __future__ import annotations

import time
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

LOG_EVERY_S = 15.0


class TerminalReporter:
    """Shows progress bars on a terminal; elsewhere writes a line every few seconds."""

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
        self._tasks[stage] = self._progress.add_task(stage, total=total, text="")
        self._line(f"{stage}: {total} to do")

    def advance(self, stage: str, text: str = "") -> None:
        self.update(stage, int(self._done[stage]) + 1, text)

    def update(self, stage: str, completed: float, text: str = "") -> None:
        self._done[stage] = completed
        self._progress.update(self._tasks[stage], completed=completed, text=text)
        if time.monotonic() - self._last_line > LOG_EVERY_S:
            percent = 100 * completed / max(self._totals[stage], 1)
            self._line(f"{stage}: {percent:.0f} %{f', {text}' if text else ''}")

    def end(self, stage: str) -> None:
        seconds = time.monotonic() - self._started[stage]
        self._progress.update(self._tasks[stage], completed=self._totals[stage])
        self._line(f"{stage}: done in {seconds:.1f} s")

    def note(self, text: str) -> None:
        output.note(text)
        if not self._quiet:
            self._console.print(
                f"note: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True
            )

    def _line(self, text: str) -> None:
        if not self._bars and not self._quiet:
            self._console.print(text, markup=False, highlight=False)
            self._last_line = time.monotonic()
