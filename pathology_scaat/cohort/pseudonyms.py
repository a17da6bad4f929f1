"""A cohort under pseudonyms: ids that only the holder of the salt can follow back."""

from __future__ import annotations

import csv
import hmac
import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from pathology_scaat.artifacts.redaction import load_salt, pseudonymize
from pathology_scaat.artifacts.table_cells import safe_cell
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import UsageError
from pathology_scaat.system.locks import describe_os_error, file_lock
from pathology_scaat.system.own_files import read_own, replace_file

KEY_SUFFIX = ".key.csv"
MAX_KEY_BYTES = 256 << 20
_FINGERPRINT_USE = b"pathology_scaat: hashes of slides"
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

    Notes
    -----
    The rows are in the order of the pseudonyms, which reveals nothing without the salt.
    """
    salt = load_salt(salt_path, out_dir)
    # Where the salt really is: beside a link to it (in the output folder, say) the key would
    # undo the pseudonyms.
    salt_path = salt_path.resolve()
    key: dict[str, str] = {}

    def new(name: str) -> str:
        made = pseudonymize(name, salt)
        key[made] = name
        return made

    rows = [
        replace(row, slide_id=new(row.slide_id), patient_id=new(row.patient_id))
        for row in cohort.rows
    ]
    # The order of the table may be that of names or dates; pseudonyms are in no such order.
    rows.sort(key=lambda row: row.slide_id)
    _write_key(salt_path.with_name(salt_path.name + KEY_SUFFIX), key)
    # Notes name lines, headings and classes of the table, and neither slides nor patients.
    return Manifest(
        rows=tuple(rows),
        notes=cohort.notes,
        fingerprint_key=hmac.new(salt, _FINGERPRINT_USE, sha256).digest(),
    )


def _write_key(path: Path, key: Mapping[str, str]) -> None:
    """Add pseudonyms to the key file; what is in it stays."""
    try:
        with file_lock(path.with_name(f".{path.name}.lock")):
            known: dict[str, str] = {}
            with suppress(FileNotFoundError):
                stored = read_own(path, MAX_KEY_BYTES).decode("utf-8-sig")
                known = {
                    row["pseudonym"]: row["name"] for row in csv.DictReader(io.StringIO(stored))
                }
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(_COLUMNS)
            merged = known | {made: safe_cell(name) for made, name in key.items()}
            writer.writerows(sorted(merged.items()))
            # Without the key nobody finds back from a pseudonym: it must last.
            replace_file(path, text.getvalue().encode(), mode=0o600, durable=True)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        words = describe_os_error(error) if isinstance(error, OSError) else "not a key file"
        raise UsageError(
            path.name, f"cannot be written ({words})", "name another path for the salt"
        ) from None
