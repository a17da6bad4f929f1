"""How a command reports its progress, without knowing who listens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pathology_scaat.artifacts.leases import lease_if_writable
from pathology_scaat.artifacts.notes import keep_notes

if TYPE_CHECKING:
    from pathology_scaat.training import TrainProgress, TrainResult

Trained = TypeVar("Trained")
"""What a training returns."""


class Reporter(Protocol):
    """Listens to a running command. All methods return at once."""

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


def report_and_keep(notes: Sequence[str], out: Path, stage: str, reporter: Reporter) -> None:
    """Report the notes of a stage, and keep them in the output folder."""
    for note in notes:
        reporter.note(note)
    out.mkdir(parents=True, exist_ok=True)
    keep_notes(out, stage, notes)


def train_reported(
    train: Callable[..., Trained], bundle: Path, stage: str, reporter: Reporter
) -> Trained:
    """Run a training as the only one that writes its bundle, and report its epochs.

    Parameters
    ----------
    train : callable
        The training; ``progress`` is the function that it calls after each epoch. Where the right
        bundle is there already it returns without a call, and no progress is shown.
    bundle : Path
        The folder that it makes; where another process makes the same, that one is waited for.
    stage : str
        What the progress is called.
    reporter : Reporter
        Listens to the progress.
    """
    begun = False

    def on_progress(progress: TrainProgress) -> None:
        nonlocal begun
        if not begun:
            reporter.begin(stage, progress.n_epochs)
            begun = True
        reporter.update(stage, progress.epochs_done, progress.text)

    with lease_if_writable(bundle, math.inf):
        result = train(progress=on_progress)
    if begun:
        reporter.end(stage)
    return result


def train_noted(
    train: Callable[..., TrainResult],
    bundle: Path,
    out: Path,
    stage: str,
    notes: Sequence[str],
    reporter: Reporter,
) -> TrainResult:
    """:func:`train_reported`, with notes before and after it; ``out`` keeps them all.

    Parameters
    ----------
    train, bundle, stage, reporter
        As there; ``stage`` is also the name under which the notes are kept.
    out : Path
        Output folder of the run.
    notes : sequence of str
        What is known before: reported at once, and not again where the training says it too.
    """
    for note in notes:
        reporter.note(note)
    result = train_reported(train, bundle, stage, reporter)
    after = [note for note in result.notes if note not in notes]
    for note in after:
        reporter.note(note)
    keep_notes(out, stage, (*notes, *after))
    return result


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
