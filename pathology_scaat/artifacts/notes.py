"""``notes.json``: what was assumed, stage by stage, kept beside the results it speaks of.

Notes name lines of a table, headings, classes and slide ids; never patients, files or folders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.artifacts.checksums import text_problem, write_checked_json
from pathology_scaat.artifacts.status import LOCK_NAME
from pathology_scaat.system.locks import file_lock

FILE_NAME = "notes.json"


def keep_notes(out_dir: Path, stage: str, notes: Sequence[str]) -> None:
    """Replace the notes of one stage; those of the others stay.

    A stage that has nothing to say has no entry, and without any entry there is no file.
    """
    path = Path(out_dir) / FILE_NAME
    with file_lock(Path(out_dir) / LOCK_NAME):
        before = read_notes(out_dir)
        kept = {**before, stage: tuple(notes)}
        kept = {name: said for name, said in sorted(kept.items()) if said}
        if kept == before and not (path.exists() and text_problem(path)):
            return
        if not kept:
            path.unlink(missing_ok=True)
            return
        write_checked_json(path, {name: list(said) for name, said in kept.items()})


def read_notes(out_dir: Path) -> dict[str, tuple[str, ...]]:
    """The notes of each stage; empty where none were kept, or the file is none of ours."""
    try:
        found = json.loads((Path(out_dir) / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        str(stage): tuple(map(str, said)) for stage, said in found.items() if isinstance(said, list)
    }
