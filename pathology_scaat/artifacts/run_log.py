"""``run.log``: what the commands on an output folder did, and how long each part took.

As everything in the folder it names neither paths, people, machines nor dates: times are since
the command began. The clock's time stands in what the command prints, which goes elsewhere.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pathology_scaat.artifacts.failure_log import redactor_for
from pathology_scaat.artifacts.fingerprint import versions
from pathology_scaat.artifacts.output_folder import MARKER_NAME, RUN_LOG_NAME
from pathology_scaat.system.amounts import clock
from pathology_scaat.system.own_files import append_own, read_own

MAX_LOG_BYTES: Final = 16 << 20
_ADDRESS = re.compile(r"\b\w+://\S+")
_DONE = re.compile(
    r"^(?P<clock>\S+) (?P<stage>\w+): done in (?P<seconds>[0-9.]+) s"
    r"(?: \((?P<slides>\d+) slides, (?P<patches>\d+) patches\))?$"
)


class RunLog:
    """Appends lines to ``run.log`` of a folder, once the folder is known to be ours.

    A log that cannot be written stops nothing.

    Parameters
    ----------
    out : Path
        Output folder.
    command : str
        What the lines are of, such as ``run``.
    """

    def __init__(self, out: Path, command: str) -> None:
        self._out = out
        self._redact = redactor_for(out)
        self._began_s = time.monotonic()
        self._waiting: list[str] = [
            f"scaat {command} {versions().get('pathology-scaat', '')}".rstrip()
        ]

    def write(self, text: str) -> None:
        """Add a line, with the time since the command began."""
        line = " ".join(self._redact(_ADDRESS.sub("<address>", text)).split())
        self._waiting.append(f"{clock(time.monotonic() - self._began_s)} {line}")
        if not (self._out / MARKER_NAME).is_file():  # not ours (yet)
            return
        lines, self._waiting = self._waiting, []
        with suppress(OSError):
            text = "".join(f"{line}\n" for line in lines)
            append_own(self._out / RUN_LOG_NAME, text, max_bytes=MAX_LOG_BYTES)


@dataclass(frozen=True)
class StageTime:
    """How long a stage of an earlier command took, for how much.

    Attributes
    ----------
    seconds : float
    n_slides, n_patches : int
        That were made, not found to be there.
    """

    seconds: float
    n_slides: int
    n_patches: int


def stage_done(stage: str, seconds: float, n_slides: int, n_patches: int) -> str:
    """The line of a stage that made something, as :func:`stage_times` reads it."""
    return f"{stage}: done in {seconds:.3f} s ({n_slides} slides, {n_patches} patches)"


def stage_times(out: Path) -> dict[str, StageTime]:
    """The time that each stage took in the last command in which it made something."""
    try:
        text = read_own(out / RUN_LOG_NAME, MAX_LOG_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return {}
    found: dict[str, StageTime] = {}
    here: dict[str, StageTime] = {}
    for line in text.splitlines():
        if line.startswith("scaat "):
            here = {}
        match = _DONE.match(line)
        if match and match["slides"] and int(match["slides"]):
            before = here.get(match["stage"], StageTime(0.0, 0, 0))  # a model for each fold
            here[match["stage"]] = StageTime(
                before.seconds + float(match["seconds"]),
                before.n_slides + int(match["slides"]),
                before.n_patches + int(match["patches"]),
            )
            found |= here
    return found
