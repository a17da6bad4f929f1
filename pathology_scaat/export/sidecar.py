"""The record beside a slide's overlays: frame, offset, hashes, what was left out."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.checksums import without_checksum, write_checked_json
from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.artifacts.output_names import RECORD_SUFFIX, overlay_name
from pathology_scaat.export.frame import ExportFrame

SCHEMA_NAME = "pathology_scaat.overlay"
SCHEMA_VERSION = 3
RULES = 3
"""Of what files say of the same map under the same settings: which tiles have a class, where a
region may be, what warns. One more for each change, so that files by earlier rules, which would be
read by today's, are written anew."""

_KEYS_ABOUT: dict[frozenset[str], tuple[str, ...]] = {
    frozenset({"geojson", "geojson-plain"}): ("coordinates", "n_tiles", "n_regions"),
    frozenset({"png", "figure", "rgb-tiff", "ome-tiff"}): ("colour_scale", "saliency_scale"),
}
"""What a record says once, of the last call that made a file of these formats."""


def sidecar_path(overlay_dir: Path, slide_id: str) -> Path:
    return overlay_dir / overlay_name(slide_id, RECORD_SUFFIX)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none of this schema."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA_NAME:
        return None
    return value if value.get("schema_version") == SCHEMA_VERSION else None


def _is_there(overlay_dir: Path, name: str, entry: dict[str, Any]) -> bool:
    path = overlay_dir / Path(name).name
    return path.is_file() and path.stat().st_size == entry.get("bytes")


def current_formats(record: dict[str, Any], overlay_dir: Path, wanted: str) -> frozenset[str]:
    """Formats whose files are there in their size and were made from what is wanted now."""
    right: dict[str, bool] = {}
    for name, entry in record.get("files", {}).items():
        kind = str(entry.get("format"))
        fine = entry.get("made_from") == wanted and _is_there(overlay_dir, name, entry)
        right[kind] = right.get(kind, True) and fine
    return frozenset(kind for kind, fine in right.items() if fine)


@dataclass(frozen=True)
class OtherFiles:
    """Files of a slide that other calls made and this one does not make.

    Attributes
    ----------
    of_this_map : dict
        Entries of the record for files that show the same map.
    of_earlier_maps : dict
        Entries for files that show a map which is no more.
    """

    of_this_map: dict[str, Any]
    of_earlier_maps: dict[str, Any]

    @classmethod
    def of(
        cls, record: dict[str, Any] | None, overlay_dir: Path, made: Collection[str], map_: str
    ) -> OtherFiles:
        """What the record knows of and is still there, but for the formats that are made now."""
        if record is None:
            return cls({}, {})
        same = record.get("map_fingerprint") == map_
        fresh: dict[str, Any] = {}
        stale: dict[str, Any] = {}
        for entries, group in (
            (record.get("earlier_files", {}), stale),
            (record.get("files", {}), fresh if same else stale),
        ):
            for name, entry in entries.items():
                there = (overlay_dir / Path(name).name).is_file()
                if entry.get("format") not in made and there:
                    group[name] = entry
        return cls(fresh, stale)

    def without(self, formats: Collection[str]) -> dict[str, Any]:
        """Files that formats asked for do not explain: what pruning removes."""
        everything = {**self.of_earlier_maps, **self.of_this_map}
        return {
            name: entry
            for name, entry in everything.items()
            if name in self.of_earlier_maps or entry.get("format") not in formats
        }

    def pruned(self, formats: Collection[str]) -> OtherFiles:
        gone = self.without(formats)
        return OtherFiles(
            {name: entry for name, entry in self.of_this_map.items() if name not in gone}, {}
        )


def remove_files(overlay_dir: Path, entries: dict[str, Any]) -> tuple[str, ...]:
    """Remove files that a record names, unless somebody changed them; returns notes."""
    notes = []
    for name, entry in sorted(entries.items()):
        path = overlay_dir / Path(name).name
        if file_sha256(path) == entry.get("sha256"):
            path.unlink()
        else:
            notes.append(f"{path.name} was changed since it was exported and is left there")
    return tuple(notes)


def record_before_writing(path: Path, record: dict[str, Any] | None, made: Collection[str]) -> None:
    """Take the formats that are about to be made out of the record: their state is not known."""
    entries = (record or {}).get("files", {})
    left = {name: entry for name, entry in entries.items() if entry.get("format") not in made}
    if record is None or not (left or record.get("earlier_files")):
        path.unlink(missing_ok=True)
    elif len(left) < len(entries):
        write_sidecar(path, {**without_checksum(record), "files": left, "fingerprint": ""})


def with_other_files(
    record: dict[str, Any], old: dict[str, Any] | None, other: OtherFiles
) -> dict[str, Any]:
    """A record with the files of other calls, and what it said of them."""
    made = {entry["format"] for entry in record["files"].values()}
    merged = {**record, "files": {**other.of_this_map, **record["files"]}}
    kept = {entry.get("format") for entry in other.of_this_map.values()}
    for kinds, keys in _KEYS_ABOUT.items():
        if old is not None and kept & kinds and not made & kinds:
            merged.update({key: old[key] for key in keys if key in old})
    file_notes = [note for entry in merged["files"].values() for note in entry.get("notes", ())]
    notes = dict.fromkeys([*file_notes, *record["notes"]])
    if other.of_earlier_maps:
        names = ", ".join(sorted(other.of_earlier_maps))
        notes[f"{names}: of an earlier map; export again, or remove with --prune"] = None
        merged["earlier_files"] = other.of_earlier_maps
    merged["notes"] = list(notes)
    return merged


def file_entry(path: Path, kind: str, frame: ExportFrame) -> dict[str, Any]:
    """Size, hash and frame of one file."""
    return {
        "format": kind,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "frame": asdict(frame),
    }


def write_sidecar(path: Path, record: dict[str, Any]) -> None:
    write_checked_json(path, {"schema": SCHEMA_NAME, "schema_version": SCHEMA_VERSION, **record})
