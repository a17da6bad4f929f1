"""Checksums that artifacts carry in themselves, so that one flipped bit anywhere is found.

A seal is the SHA-256 of all bytes, computed with 64 zeros in the place where it then stands.
It lies in a file that the artifact has anyway (the attributes of a store, a record, a page):
nothing foreign lies in an OME-Zarr, and an artifact and its seal appear in one rename.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.fingerprint import file_sha256

SEAL_KEY = "pathology_scaat_seal"
EMPTY_SEAL = "0" * 64
_JSON_SEAL = re.compile(rf'"{SEAL_KEY}": ?"([0-9a-f]{{64}})"')

NO_SEAL = "carries no checksum of its bytes"
BROKEN_SEAL = "has other bytes than when they were written"


def with_seal(text: str, seal: str, pattern: re.Pattern[str] = _JSON_SEAL) -> str:
    """The text with a seal where the pattern has its place."""
    start, end = pattern.search(text).span(1)  # type: ignore[union-attr]  # put there before
    return text[:start] + seal + text[end:]


def sealed_text(text: str, pattern: re.Pattern[str] = _JSON_SEAL) -> str:
    """The text with its SHA-256 in the place of the 64 zeros that the pattern finds."""
    return with_seal(text, hashlib.sha256(text.encode()).hexdigest(), pattern)


def unsealed(text: str, pattern: re.Pattern[str] = _JSON_SEAL) -> tuple[str, str] | None:
    """The seal of a text, and the text as it was before it was sealed; None without a seal."""
    found = pattern.search(text)
    return None if found is None else (found[1], with_seal(text, EMPTY_SEAL, pattern))


def text_problem(path: Path, pattern: re.Pattern[str] = _JSON_SEAL) -> str | None:
    """What is wrong with the bytes of a sealed text file, if anything."""
    try:
        found = unsealed(path.read_bytes().decode(), pattern)
    except (OSError, UnicodeDecodeError):
        return BROKEN_SEAL
    if found is None:
        return NO_SEAL
    seal, text = found
    return None if hashlib.sha256(text.encode()).hexdigest() == seal else BROKEN_SEAL


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON with sorted keys and its own seal, atomically."""
    text = json.dumps(
        {**value, SEAL_KEY: EMPTY_SEAL},
        indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False,
    )  # fmt: skip
    with atomic_path(path) as partial:
        partial.write_bytes(sealed_text(text + "\n").encode())


def _tree_digest(folder: Path, sealed: str, text: str, by_size: tuple[str, ...]) -> str:
    """SHA-256 over names and contents; ``text`` stands for the file that holds the seal."""
    digest = hashlib.sha256()
    for name in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()):
        if name == sealed:
            content = hashlib.sha256(text.encode()).hexdigest()
        elif name.startswith(by_size):
            content = str((folder / name).stat().st_size)
        else:
            content = file_sha256(folder / name)
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def seal_folder(folder: Path, name: str, by_size: tuple[str, ...] = ()) -> None:
    """Seal all files of a folder that is being made, in its JSON file ``name``.

    Parameters
    ----------
    folder : Path
    name : str
        File inside the folder: ``zarr.json`` (the seal becomes an attribute) or any JSON object.
    by_size : tuple of str
        Beginnings of the names of which only the size enters: large shards in which every
        chunk has a checksum of its own.
    """
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    holder = value["attributes"] if Path(name).name == "zarr.json" else value
    holder[SEAL_KEY] = EMPTY_SEAL
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    seal = _tree_digest(folder, name, text, by_size)
    (folder / name).write_bytes(with_seal(text, seal).encode())


def folder_problem(folder: Path, name: str, by_size: tuple[str, ...] = ()) -> str | None:
    """What is wrong with the bytes of a sealed folder, if anything."""
    try:
        found = unsealed((folder / name).read_bytes().decode())
        if found is None:
            return NO_SEAL
        seal, text = found
        return None if _tree_digest(folder, name, text, by_size) == seal else BROKEN_SEAL
    except (OSError, UnicodeDecodeError):
        return BROKEN_SEAL


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
            return BROKEN_SEAL
        at = end
    return None if kind == b"IEND" and at == len(data) else BROKEN_SEAL
