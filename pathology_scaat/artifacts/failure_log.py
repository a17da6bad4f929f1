"""``logs/<stage>.log``: the long story of failures whose sentence is in ``slides.csv``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pathology_scaat.artifacts.redaction import PATH_MARK, Redactor, reason_for
from pathology_scaat.errors import ScaatError
from pathology_scaat.system.own_files import append_own

MAX_LOG_BYTES = 16 << 20


def redactor_for(out_dir: Path) -> Redactor:
    """A redactor of what is written in an output folder: it hides the folder's own path too."""
    redactor = Redactor()
    # As it was given, too: relative to where the command ran it may hold names.
    for name in {str(out_dir), str(out_dir.absolute()), str(out_dir.resolve())}:
        if len(name) > 2:  # not "." and ".."
            redactor.hide(f"{name}{os.sep}", f"{PATH_MARK}{os.sep}")
            redactor.hide(f"'{name}'", f"'{PATH_MARK}'")
    return redactor


def log_failure(out_dir: Path, stage: str, slide_id: str, error: ScaatError) -> None:
    """Append a failure, with the traceback where nobody foresaw it.

    What is written names neither paths nor the slide's file, and holds no time. A log that
    cannot be written (a full disk) never hides the failure itself: that is in ``slides.csv``.
    """
    trace = str(getattr(error, "trace", ""))
    text = f"{slide_id}: {reason_for(error)}\n" + "".join(
        f"    {line}\n" for line in trace.splitlines()
    )
    with suppress(OSError):
        path = out_dir / "logs" / f"{stage}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        append_own(path, redactor_for(out_dir)(text), max_bytes=MAX_LOG_BYTES)
