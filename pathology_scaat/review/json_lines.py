"""Append-only lists of the review, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.system.locks import describe_os_error, file_lock
from pathology_scaat.system.own_files import append_durably


def append_json_line(path: Path, value: dict[str, Any]) -> None:
    """Append a value as one line of JSON; it is on the disk when this returns.

    Several processes may append at once: each takes the lock ``.NAME.lock`` beside the file.

    Parameters
    ----------
    path : Path
        Made, with its folder, where it does not exist.
    value : dict
        Of JSON types; no NaN.

    Raises
    ------
    StoreError
        If the line cannot be written.
    LeaseError
        If another process holds the lock for a minute.
    """
    line = json.dumps(value, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_name(f".{path.name}.lock")):
            append_durably(path, line + "\n")
    except OSError as error:
        raise StoreError(
            path.name, f"cannot be written ({describe_os_error(error)})",
            "check free disk space and permissions",
        ) from None  # fmt: skip


def json_lines(path: Path, max_bytes: int) -> Iterator[Any]:
    """The values of a file's lines, none of a file that is not there.

    Raises
    ------
    OSError, ValueError, RecursionError
        If it cannot be read, is larger, or a line is no JSON.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise ValueError("too large")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    yield from (json.loads(line) for line in text.splitlines() if line.strip())
