"""A reporter that keeps what it hears in ``run.log``, and passes it on."""

from __future__ import annotations

import time
from pathlib import Path

from pathology_scaat.artifacts.run_log import RunLog, stage_done
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.system.rounding import done_percent
from pathology_scaat.system.worker_import import end_if_imported_by_worker

LINE_AFTER_S = 60.0
LINE_SHARE = 0.05
"""Lines on the way: a minute apart at first, then a share of the stage's time."""


class LoggingReporter:
    """Listens for another reporter, and writes down what it hears."""

    def __init__(self, inner: Reporter, log: RunLog) -> None:
        self._inner = inner
        self._log = log
        self._totals: dict[str, int] = {}
        self._done: dict[str, float] = {}
        self._began_s: dict[str, float] = {}
        self._made: dict[str, tuple[int, int]] = {}
        self._last_s = time.monotonic()

    def _write(self, text: str) -> None:
        self._last_s = time.monotonic()
        self._log.write(text)

    def begin(self, stage: str, total: int) -> None:
        self._totals[stage], self._done[stage] = total, 0.0
        self._began_s[stage] = time.monotonic()
        self._made.pop(stage, None)
        self._write(f"{stage}: {total} to do")
        self._inner.begin(stage, total)

    def advance(self, stage: str, text: str = "") -> None:
        self._on_the_way(stage, int(self._done.get(stage, 0.0)) + 1, text)
        self._inner.advance(stage, text)

    def update(self, stage: str, completed: float, text: str = "") -> None:
        self._on_the_way(stage, completed, text)
        self._inner.update(stage, completed, text)

    def _on_the_way(self, stage: str, completed: float, text: str) -> None:
        self._done[stage] = completed
        now_s = time.monotonic()
        wait_s = (now_s - self._began_s.get(stage, now_s)) * LINE_SHARE
        if now_s - self._last_s > max(wait_s, LINE_AFTER_S):
            share = done_percent(completed, self._totals.get(stage, 1))
            self._write(f"{stage}: {share}{f', {text}' if text else ''}")

    def made(self, stage: str, n_slides: int, n_patches: int) -> None:
        """How much of a stage was made and not found: by that its time can be judged."""
        self._made[stage] = (n_slides, n_patches)

    def end(self, stage: str) -> None:
        seconds = time.monotonic() - self._began_s.get(stage, time.monotonic())
        if stage in self._made:
            self._write(stage_done(stage, seconds, *self._made[stage]))
        else:
            self._write(f"{stage}: done in {seconds:.3f} s")
        self._inner.end(stage)

    def note(self, text: str) -> None:
        self._write(f"note: {text}")
        self._inner.note(text)

    def failed(self, stage: str, slide_id: str, reason: str) -> None:
        """A slide that failed; ``reason`` names no file."""
        self._write(f"{stage}: failed: {slide_id}: {reason}")


def logged(reporter: Reporter | None, out: Path, command: str) -> Reporter:
    """The reporter of a command that writes ``run.log`` as well.

    A command within another one writes into the log of that one.
    """
    end_if_imported_by_worker()
    if isinstance(reporter, LoggingReporter):
        return reporter
    return LoggingReporter(reporter or Silent(), RunLog(out, command))
