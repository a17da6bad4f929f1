"""``run.json``: what was run, in enough detail to run it again, and nothing about who ran it."""

from __future__ import annotations

import getpass
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pathology_scaat.artifacts.atomic import read_json
from pathology_scaat.artifacts.checksums import without_checksum, write_checked_json
from pathology_scaat.artifacts.fingerprint import fingerprint, versions
from pathology_scaat.artifacts.redaction import scrub
from pathology_scaat.errors import StoreError
from pathology_scaat.system.locks import describe_os_error

FILE_NAME = "run.json"
SCHEMA_NAME = "pathology_scaat.run"
SCHEMA_VERSION = 1
EXTERNAL_WORD = "external"
"""What a look at an external cohort is of begins with it."""
TESTS_KEY = "tests"
"""Which predictions the held-out cases were judged by, in order: each is a look at them."""

Audit = Literal["standard", "full"]
AUDIT_LEVELS: Final = ("standard", "full")


def write_run_record(
    out_dir: Path,
    config: Mapping[str, Any],
    *,
    inputs: Mapping[str, Any] | None = None,
    audit: Audit = "standard",
    full_config: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``run.json``.

    Parameters
    ----------
    out_dir : Path
        Output folder.
    config : mapping
        Everything that decides the result, as JSON-like values; paths become ``<path>``.
    inputs : mapping, optional
        Fingerprints of what went in (manifest, model bundle), by name.
    audit : {"standard", "full"}
        ``full`` adds the command line, time, user and host, and keeps the paths: for a log
        that stays in the house.
    full_config : mapping, optional
        What to keep under ``full`` instead of `config`.

    Notes
    -----
    With ``standard`` the same run gives the same bytes, on any machine with the same versions.
    """
    cleaned = scrub(dict(config))
    record: dict[str, Any] = {
        "schema": SCHEMA_NAME,
        "schema_version": SCHEMA_VERSION,
        "config": cleaned,
        "config_fingerprint": fingerprint({"config": cleaned}),
        "inputs": scrub(dict(inputs or {})),
        "versions": versions(),
        "audit": audit,
    }
    if audit == "full":
        record["full"] = {
            "config": _texts(dict(full_config or config)),
            "command": list(sys.argv),
            "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "user": getpass.getuser(),
            "host": platform.node(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        }
    if looks := _tests(Path(out_dir)):
        record[TESTS_KEY] = looks  # a new run does not make earlier looks at the test cases undone
    return _write(Path(out_dir), record)


def _write(out_dir: Path, record: dict[str, Any]) -> Path:
    path = out_dir / FILE_NAME
    try:
        write_checked_json(path, record)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            FILE_NAME,
            f"cannot be written ({describe_os_error(error)})",
            "check the folder's permissions and free space, then run again",
        ) from None
    return path


def _tests(out_dir: Path) -> list[dict[str, str]]:
    """The looks at test cases that a record holds; none where there is no sound record."""
    try:
        found = _checked(read_json(out_dir / FILE_NAME)).get(TESTS_KEY, [])
    except (StoreError, OSError):
        return []
    return [dict(entry) for entry in found] if isinstance(found, list) else []


def record_test(out_dir: Path, evaluated_on: str, predictions: str) -> int:
    """Enter into ``run.json`` that cases were judged by these predictions.

    The same predictions judged again are no further look. Where there is no sound record (stages
    run one by one) nothing is entered.

    Returns
    -------
    int
        How often these cases were judged before by other predictions. Those of an external
        cohort are other cases than the folder's own.
    """
    looks = _tests(Path(out_dir))
    entry = {"evaluated_on": evaluated_on, "predictions": predictions}
    outside = evaluated_on.startswith(EXTERNAL_WORD)
    before = sum(
        look != entry and str(look.get("evaluated_on", "")).startswith(EXTERNAL_WORD) == outside
        for look in looks
    )
    if entry not in looks:
        try:
            record = without_checksum(_checked(read_json(Path(out_dir) / FILE_NAME)))
        except (StoreError, OSError):
            return before
        _write(Path(out_dir), {**record, TESTS_KEY: [*looks, entry]})
    return before


def read_run_record(out_dir: Path) -> dict[str, Any]:
    """Read ``run.json`` back.

    Raises
    ------
    StoreError
        If it is absent, damaged, of another schema version, or was altered.
    """
    return _checked(read_json(Path(out_dir) / FILE_NAME))


def settings_to_repeat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run as ``scaat run`` takes them; paths may be ``<path>``.

    Raises
    ------
    StoreError
        If the record is of another schema version, or was altered.
    """
    checked = _checked(dict(record))
    full = checked.get("full")
    config = full.get("config") if isinstance(full, dict) else checked.get("config")
    return dict(config) if isinstance(config, dict) else {}


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("schema") != SCHEMA_NAME or record.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            FILE_NAME,
            f"is not a run record of schema version {SCHEMA_VERSION}",
            "run again with this version",
        )
    if fingerprint({"config": record.get("config")}) != record.get("config_fingerprint"):
        raise StoreError(FILE_NAME, "was altered after the run", "run again")
    return record


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
