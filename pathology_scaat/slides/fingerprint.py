"""Content fingerprint of a slide."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pathology_scaat.errors import SlideOpenError

SAMPLE_BYTES = 1 << 16


SAMPLE_COUNT = 64


def _slide_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    companions = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and companions.is_dir():
        return [path, *sorted(p for p in companions.rglob("*") if p.is_file())]
    return [path]


def slide_fingerprint(path: Path) -> str:
    """Content fingerprint of a slide: size and evenly spread samples of its bytes.

    A whole-slide image is gigabytes; hashing all of it would cost more than tiling it.
    The first, the last and 62 blocks of 64 KiB between are hashed with the size, over every
    file that belongs to the slide (companion folder of MIRAX, instances of DICOM). Names and
    times do not enter, so that a copied or renamed slide keeps its fingerprint.
    """
    digest = hashlib.sha256()
    try:
        for file in _slide_files(path):
            size = file.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            with file.open("rb") as stream:
                last = max(size - SAMPLE_BYTES, 0)
                offsets = sorted({last * i // (SAMPLE_COUNT - 1) for i in range(SAMPLE_COUNT)})
                for offset in offsets:
                    stream.seek(offset)
                    digest.update(stream.read(SAMPLE_BYTES))
    except OSError as error:
        raise SlideOpenError(
            path.name, f"cannot be read ({error.strerror})", "check the file and its permissions"
        ) from None
    return digest.hexdigest()
