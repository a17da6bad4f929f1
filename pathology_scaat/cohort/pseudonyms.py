"""A cohort under pseudonyms: ids that only the holder of the salt can follow back."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pathology_scaat.artifacts.redaction import load_salt, pseudonymize
from pathology_scaat.artifacts.status import safe_cell
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import UsageError
from pathology_scaat.system.fsync import sync_file, sync_folder
from pathology_scaat.system.locks import describe_os_error, file_lock

KEY_SUFFIX = ".key.csv"
_COLUMNS = ("pseudonym", "name")


def pseudonymous(cohort: Manifest, salt_path: Path, out_dir: Path) -> Manifest:
    """The cohort with every slide and patient under a pseudonym.

    Parameters
    ----------
    cohort : Manifest
        As read.
    salt_path : Path
        File of the salt, outside of `out_dir`; made on first use. Beside it, readable by its
        owner only, stands the key: ``<name>.key.csv`` with pseudonym and name.
    out_dir : Path
        Output folder.

    Raises
    ------
    UsageError
        If salt or key cannot be used.
    """
    salt = load_salt(salt_path, out_dir)
    key: dict[str, str] = {}

    def new(name: str) -> str:
        made = pseudonymize(name, salt)
        key[made] = name
        return made

    rows = tuple(
        replace(row, slide_id=new(row.slide_id), patient_id=new(row.patient_id))
        for row in cohort.rows
    )
    _write_key(salt_path.with_name(salt_path.name + KEY_SUFFIX), key)
    # Notes name lines, headings and classes of the table, and neither slides nor patients.
    return Manifest(rows=rows, notes=cohort.notes)


def _write_key(path: Path, key: Mapping[str, str]) -> None:
    """Add pseudonyms to the key file; what is in it stays."""
    try:
        with file_lock(path.with_name(f".{path.name}.lock")):
            known: dict[str, str] = {}
            if path.exists():
                with path.open(newline="", encoding="utf-8") as stream:
                    known = {row["pseudonym"]: row["name"] for row in csv.DictReader(stream)}
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(_COLUMNS)
            merged = known | {made: safe_cell(name) for made, name in key.items()}
            writer.writerows(sorted(merged.items()))
            partial = path.with_name(f".{path.name}.new")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text.getvalue())
            sync_file(partial)  # without the key nobody finds back from a pseudonym
            partial.replace(path)
            sync_folder(path.parent)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        words = describe_os_error(error) if isinstance(error, OSError) else "not a key file"
        raise UsageError(
            path.name, f"cannot be written ({words})", "name another place for the salt"
        ) from None
