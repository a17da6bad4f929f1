"""Checksums that artifacts carry in themselves, so that one flipped bit anywhere is found.

A checksum is the SHA-256 of all bytes, computed with 64 zeros where it then stands.
It lies in a file that the artifact has anyway (the attributes of a store, a record, a page):
nothing foreign lies in an OME-Zarr, and an artifact and its checksum appear in one rename.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.atomic import atomic_path, write_text_if_changed
from pathology_scaat.artifacts.fingerprint import file_sha256

CHECKSUM_KEY = "pathology_scaat_checksum"
"""Its name in files."""
EARLIER_CHECKSUM_KEY = "pathology_scaat_seal"
"""Its name in files of earlier versions, which are read and verified as they are."""
EMPTY_CHECKSUM = "0" * 64
_JSON_CHECKSUM = re.compile(rf'"(?:{CHECKSUM_KEY}|{EARLIER_CHECKSUM_KEY})": ?"([0-9a-f]{{64}})"')

NO_CHECKSUM = "carries no checksum of its bytes"
CHECKSUM_MISMATCH = "has other bytes than when they were written"


def with_checksum(text: str, checksum: str, pattern: re.Pattern[str] = _JSON_CHECKSUM) -> str:
    """The text with a checksum where the pattern finds one."""
    start, end = pattern.search(text).span(1)  # type: ignore[union-attr]  # put there before
    return text[:start] + checksum + text[end:]


def text_with_checksum(text: str, pattern: re.Pattern[str] = _JSON_CHECKSUM) -> str:
    """The text with its SHA-256 in the place of the 64 zeros that the pattern finds."""
    return with_checksum(text, hashlib.sha256(text.encode()).hexdigest(), pattern)


def split_checksum(text: str, pattern: re.Pattern[str] = _JSON_CHECKSUM) -> tuple[str, str] | None:
    """The checksum of a text, and the text with zeros instead; None where there is none."""
    found = pattern.search(text)
    return None if found is None else (found[1], with_checksum(text, EMPTY_CHECKSUM, pattern))


def text_problem(path: Path, pattern: re.Pattern[str] = _JSON_CHECKSUM) -> str | None:
    """What is wrong with the bytes of a text file with a checksum, if anything."""
    try:
        found = split_checksum(path.read_bytes().decode(), pattern)
    except (OSError, UnicodeDecodeError):
        return CHECKSUM_MISMATCH
    if found is None:
        return NO_CHECKSUM
    checksum, text = found
    return None if hashlib.sha256(text.encode()).hexdigest() == checksum else CHECKSUM_MISMATCH


def without_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """The other entries of a JSON object that carries a checksum."""
    return {k: v for k, v in value.items() if k not in (CHECKSUM_KEY, EARLIER_CHECKSUM_KEY)}


def checked_json_text(value: dict[str, Any]) -> str:
    """Indented JSON with sorted keys and its own checksum."""
    text = json.dumps(
        {**without_checksum(value), CHECKSUM_KEY: EMPTY_CHECKSUM},
        indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False,
    )  # fmt: skip
    return text_with_checksum(text + "\n")


def write_checked_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON with sorted keys and its own checksum, atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(checked_json_text(value).encode())


def write_sums(folder: Path, name: str, files: Sequence[str]) -> None:
    """Write the SHA-256 of some files of a folder, as ``sha256sum --check`` reads them."""
    there = [file for file in files if (folder / file).is_file()]
    lines = [f"{file_sha256(folder / file)}  {file}\n" for file in there]
    write_text_if_changed(folder / name, "".join(lines))


def sums_problem(folder: Path, name: str) -> str | None:
    """What does not agree with a file of :func:`write_sums`; None where all does."""
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"{name} cannot be read"
    for line in lines:
        digest, _, file = line.partition("  ")
        if not (folder / file).is_file():
            return f"{file[:80]} is missing"
        if file_sha256(folder / file) != digest:
            return f"{file} is not as it was written"
    return None if lines else f"{name} is empty"


def _tree_digest(
    folder: Path, holder: str, text: str, by_size: tuple[str, ...], apart: tuple[str, ...] = ()
) -> str:
    """SHA-256 over names and contents; ``text`` stands for the file that holds the checksum."""
    digest = hashlib.sha256()
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for name in sorted(names - set(apart)):
        if name == holder:
            content = hashlib.sha256(text.encode()).hexdigest()
        elif name.startswith(by_size):
            content = str((folder / name).stat().st_size)
        else:
            content = file_sha256(folder / name)
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def checksum_folder(folder: Path, name: str, by_size: tuple[str, ...] = ()) -> None:
    """Write the checksum of a folder that is being made into its JSON file ``name``.

    Parameters
    ----------
    folder : Path
    name : str
        File inside the folder: ``zarr.json`` (it becomes an attribute) or any JSON object.
    by_size : tuple of str
        Beginnings of the names of which only the size enters: large shards in which every
        chunk has a checksum of its own.
    """
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    holder = value["attributes"] if Path(name).name == "zarr.json" else value
    holder.pop(EARLIER_CHECKSUM_KEY, None)
    holder[CHECKSUM_KEY] = EMPTY_CHECKSUM
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    checksum = _tree_digest(folder, name, text, by_size)
    (folder / name).write_bytes(with_checksum(text, checksum).encode())


def folder_problem(
    folder: Path, name: str, by_size: tuple[str, ...] = (), apart: tuple[str, ...] = ()
) -> str | None:
    """What is wrong with the bytes of a folder with a checksum, if anything.

    ``apart`` are files that came later and have checksums of their own.
    """
    try:
        found = split_checksum((folder / name).read_bytes().decode())
        if found is None:
            return NO_CHECKSUM
        checksum, text = found
        found_now = _tree_digest(folder, name, text, by_size, apart)
        return None if found_now == checksum else CHECKSUM_MISMATCH
    except (OSError, UnicodeDecodeError):
        return CHECKSUM_MISMATCH


def png_problem(path: Path) -> str | None:
    """What is wrong with the bytes of a PNG by the checksums of its chunks, if anything."""
    data = path.read_bytes()
    at = 8
    kind = b""
    while data[:8] == b"\x89PNG\r\n\x1a\n" and at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + size
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            return CHECKSUM_MISMATCH
        at = end
    return None if kind == b"IEND" and at == len(data) else CHECKSUM_MISMATCH
