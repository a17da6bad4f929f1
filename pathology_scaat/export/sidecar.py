"""The record beside a slide's overlays: frame, offset, hashes, what was left out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.checksums import write_sealed_json
from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.export.frame import ExportFrame

SCHEMA_NAME = "pathology_scaat.overlay"
SCHEMA_VERSION = 3


def sidecar_path(overlay_dir: Path, slide_id: str) -> Path:
    return overlay_dir / f"{slide_id}.json"


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none of this schema."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA_NAME:
        return None
    return value if value.get("schema_version") == SCHEMA_VERSION else None


def is_current(record: dict[str, Any], overlay_dir: Path, wanted: str) -> bool:
    """Whether the record is of this fingerprint and its files are there in their size."""
    if record.get("fingerprint") != wanted:
        return False
    files = record.get("files", {})
    return all(
        (overlay_dir / name).is_file() and (overlay_dir / name).stat().st_size == entry.get("bytes")
        for name, entry in files.items()
    )


def file_entry(path: Path, kind: str, frame: ExportFrame) -> dict[str, Any]:
    """Size, hash and frame of one file."""
    return {
        "format": kind,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "frame": asdict(frame),
    }


def write_sidecar(path: Path, record: dict[str, Any]) -> None:
    write_sealed_json(path, {"schema": SCHEMA_NAME, "schema_version": SCHEMA_VERSION, **record})
