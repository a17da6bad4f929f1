"""How a verb tells of its progress, without knowing who listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pathology_scaat.artifacts.notes import keep_notes


class Reporter(Protocol):
    """Listens to a running verb. All methods return at once."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of ``total`` units (slides, or epochs) begins."""

    def advance(self, stage: str, text: str = "") -> None:
        """One unit is done."""

    def update(self, stage: str, completed: float, text: str = "") -> None:
        """``completed`` units are done, a fraction allowed."""

    def end(self, stage: str) -> None:
        """The stage is over."""

    def note(self, text: str) -> None:
        """One sentence that the user should read."""


class Silent:
    """The reporter of Python callers who gave none."""

    def begin(self, stage: str, total: int) -> None: ...

    def advance(self, stage: str, text: str = "") -> None: ...

    def update(self, stage: str, completed: float, text: str = "") -> None: ...

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None: ...


def tell_and_keep(notes: Sequence[str], out: Path, stage: str, reporter: Reporter) -> None:
    """Tell the notes of a stage, and keep them in the output folder."""
    for note in notes:
        reporter.note(note)
    out.mkdir(parents=True, exist_ok=True)
    keep_notes(out, stage, notes)


@dataclass
class StageReport:
    """What one stage did, by slide id.

    ``failed`` holds the reason in words; a skipped slide already had the right artifact.
    ``warnings`` holds what the user must not miss about slides that did not fail.
    """

    stage: str
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> tuple[str, ...]:
        return tuple(sorted([*self.done, *self.skipped]))
