"""The way back: annotations that a pathologist corrected in QuPath, as labels for training.

What comes in is GeoJSON as QuPath exports it, by its own dialog or by the script of ours, in
the pixels of the image as QuPath opened it. What goes out is one file per slide as the manifest's
``annotation_path`` wants it: relative to the scanned area, classes named as the model names
them. Tiling adds the scanner's bounds again when it labels patches. Former annotations that
nobody touched stay (``merge.py`` has the rule); no file is replaced that an import did not make.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shapely.affinity import translate

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.artifacts.checksums import write_checked_json
from pathology_scaat.cohort.manifest import Manifest, read_manifest, write_manifest
from pathology_scaat.errors import AnnotationError, UsageError
from pathology_scaat.export.qupath.geojson import object_id, polygon_geometry, write_geojson
from pathology_scaat.export.qupath.merge import Merged, labelled_area, merge_annotations
from pathology_scaat.export.qupath.palette import qupath_classes
from pathology_scaat.export.qupath.polygons import clean_polygons
from pathology_scaat.export.qupath.returned import (
    IMPORT_RECORD,
    SlideNames,
    geojson_files,
    read_returned_annotations,
)

MANIFEST_NAME = "manifest.csv"
SCHEMA_NAME = "pathology_scaat.import"
SCHEMA_VERSION = 1
LEAST_SHARE = 0.5
"""Of a slide's labelled area that must be left after an import, unless another share is given."""


@dataclass(frozen=True)
class ImportedAnnotations:
    """What became of one slide.

    Attributes
    ----------
    slide_id : str
    path : Path or None
        The annotation file that was written; None where nothing came back and the slide keeps
        what it had.
    classes : dict
        Areas by class name, as they are now.
    merged : Merged
        How many were added, replaced and kept.
    notes : tuple of str
        What was left out, cut or kept, in words.
    unknown : tuple of str
        Classes among them that the model does not have.
    """

    slide_id: str
    path: Path | None
    classes: dict[str, int]
    merged: Merged
    notes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: the classes, what was done, what was left out."""
        held = ", ".join(
            f"{count} {name}" + (" (no class of the model)" if name in self.unknown else "")
            for name, count in self.classes.items()
        )
        merged = self.merged
        done = [
            f"{count} {what}"
            for count, what in (
                (merged.n_added, "added"),
                (merged.n_replaced, "replaced"),
                (merged.n_unchanged, "unchanged"),
                (merged.n_kept, "kept"),
                (merged.n_dropped, "dropped: their class was taken away"),
            )
            if count
        ]
        parts = [held or "nothing", ", ".join(done), *self.notes]
        return f"{self.slide_id}: {'; '.join(part for part in parts if part)}"


@dataclass(frozen=True)
class ImportReport:
    """What became of all files; iterates over the slides.

    Attributes
    ----------
    slides : tuple of ImportedAnnotations
    failed : dict of str to str
        Files that were left out, and why.
    n_other : int
        Slides of the manifest of which no usable file came back, and that keep what they had.
    notes : tuple of str
    """

    slides: tuple[ImportedAnnotations, ...]
    failed: dict[str, str] = field(default_factory=dict)
    n_other: int = 0
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ImportedAnnotations]:
        return iter(self.slides)

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index: int) -> ImportedAnnotations:
        return self.slides[index]


def _features(areas: Sequence[LabelledPolygon], slide_id: str) -> Iterator[str]:
    names = tuple(dict.fromkeys(area.class_name for area in areas))
    colours = {name: list(c.colour) for name, c in zip(names, qupath_classes(names), strict=True)}
    used: set[str] = set()
    for area in areas:
        parts = [polygon_geometry(p.normalize()) for p in clean_polygons(area.geometry)]
        if not parts:
            continue
        geometry: dict[str, Any] = parts[0]
        if len(parts) > 1:
            rings = [part["coordinates"] for part in parts]
            geometry = {"type": "MultiPolygon", "coordinates": rings}
        identity = area.object_id
        if not _is_uuid(identity) or identity in used:
            key = (slide_id, "annotation", area.class_name, area.name, json.dumps(geometry))
            identity = object_id(*key)
        if identity in used:
            continue  # the same area drawn twice is one object
        used.add(identity)
        properties: dict[str, Any] = {
            "objectType": "annotation",
            "classification": {"name": area.class_name, "color": colours[area.class_name]},
        }
        if area.name:
            properties["name"] = area.name
        yield json.dumps(
            {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties},
            separators=(",", ":"),
            ensure_ascii=False,
        )


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


class _Target:
    """The folder of labels: what earlier imports put there, and what must not be replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summaries: dict[str, str] = {}
        self.written: set[str] = set()
        try:
            record = json.loads((folder / IMPORT_RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(record, dict) and record.get("schema") == SCHEMA_NAME:
            self.written = {str(name) for name in record.get("files", [])}
            self.summaries = {str(k): str(v) for k, v in record.get("slides", {}).items()}

    def labels(self, slide_id: str) -> Path:
        return self.folder / f"{slide_id}.geojson"

    def has_labels(self, slide_id: str) -> bool:
        path = self.labels(slide_id)
        return path.name in self.written and path.is_file()

    def check(self, path: Path) -> None:
        if path.exists() and path.name not in self.written:
            raise AnnotationError(
                f"{self.folder.name}/{path.name}",
                "is there and was not written by an import",
                "give another folder with --to, or move the file away",
            )

    def claim(self, path: Path, slide_id: str = "", summary: str = "") -> None:
        """Say that a file is an import's before it is: one that is cut off can be repeated."""
        self.written.add(path.name)
        if slide_id:
            self.summaries[slide_id] = summary
        write_checked_json(
            self.folder / IMPORT_RECORD,
            {
                "schema": SCHEMA_NAME,
                "schema_version": SCHEMA_VERSION,
                "files": sorted(self.written),
                "slides": self.summaries,
            },
        )


def _former_path(slide_id: str, target: _Target, table: Manifest | None) -> Path | None:
    """Labels of an earlier import, else the annotations that the manifest names."""
    if target.has_labels(slide_id):
        return target.labels(slide_id)
    for row in table.rows if table else ():
        if row.slide_id == slide_id:
            return row.annotation_path
    return None


def _former(path: Path | None, record: dict[str, Any]) -> tuple[LabelledPolygon, ...]:
    """Former annotations in the pixels of the scanned area, whatever their file counts in."""
    if path is None:
        return ()
    x, y = record["scanned_px"]["x"], record["scanned_px"]["y"]
    found = read_annotations(path, offset_px=(x, y))
    return tuple(replace(a, geometry=translate(a.geometry, -x, -y)) for a in found if a.class_name)


def _import_slide(
    files: list[Path],
    record: dict[str, Any],
    target: _Target,
    table: Manifest | None,
    drop: bool,
) -> ImportedAnnotations:
    slide_id = str(record["slide_id"])
    back = read_returned_annotations(files, record)
    former_path = _former_path(slide_id, target, table)
    drop = drop and bool(back.areas)
    former = () if drop else _former(former_path, record)
    notes = list(back.notes)
    if not back.areas and not any(a.object_id in back.unclassed_ids for a in former):
        notes.append("nothing came back" + ("; it keeps what it had" if former else ""))
        merged = Merged(areas=former, n_kept=len(former))
        return _result(record, None, merged, notes)
    out = target.labels(slide_id)
    target.check(out)
    merged = merge_annotations(former, back.areas, back.unclassed_ids)
    _check_share(slide_id, former, merged)
    if drop and former_path is not None:
        notes.append(f"former annotations ({former_path.name}) replaced as asked")
    elif former and target.has_labels(slide_id):
        notes.append("merged with the labels of the last import")
    if merged.n_kept:
        notes.append(f"{merged.n_kept} former areas did not come back and stay")
    if merged.n_cut:
        notes.append(f"{merged.n_cut} of them cut where a returned area of another class lies")
    done = _result(record, out, merged, notes)
    target.claim(out, slide_id, done.summary())
    write_geojson(out, _features(merged.areas, slide_id))
    return done


def _check_share(slide_id: str, former: Sequence[LabelledPolygon], merged: Merged) -> None:
    """Refuse what would leave a slide less than half of its labels.

    Raises
    ------
    AnnotationError
        With the share that would be left.
    """
    before, after = labelled_area(former), labelled_area(merged.areas)
    if after < LEAST_SHARE * before:
        raise AnnotationError(
            slide_id,
            f"would keep {100 * after / before:.0f} % of its labelled area "
            f"({len(former)} areas before)",
            "if that is meant, import its file alone with --replace",
        )


def _result(
    record: dict[str, Any], path: Path | None, merged: Merged, notes: Sequence[str]
) -> ImportedAnnotations:
    classes = _counted(merged.areas)
    known = {str(entry["name"]).casefold() for entry in record["classes"]}
    unknown = tuple(name for name in classes if name.casefold() not in known)
    return ImportedAnnotations(
        str(record["slide_id"]), path, classes, merged, tuple(notes), unknown
    )


def _counted(areas: Sequence[LabelledPolygon]) -> dict[str, int]:
    classes: dict[str, int] = {}
    for area in areas:
        classes[area.class_name] = classes.get(area.class_name, 0) + 1
    return dict(sorted(classes.items()))


def import_annotations(
    source: Path,
    overlay_dir: Path,
    out_dir: Path,
    *,
    manifest: Path | None = None,
    replace_former: bool = False,
) -> ImportReport:
    """Turn GeoJSON corrected in QuPath into annotation files for the next training.

    Tiles and other detections, annotations without a class, lines and points, and our own
    regions of the map that nobody gave another class are left out. A slide keeps the former
    annotations that did not come back (see ``merge.py``); one of which nothing came back keeps
    them all. A file that cannot be used stops no other.

    Parameters
    ----------
    source : Path
        A GeoJSON file or a folder of them (``.geojson``, ``.json``, also ``.gz`` or ``.zip``),
        named after the slides; several files of one slide are joined.
    overlay_dir : Path
        The run's overlays: their records say in which pixels QuPath counts.
    out_dir : Path
        Where ``<slide_id>.geojson`` and a record of the import are written.
    manifest : Path, optional
        The cohort table, which names the former annotations; a copy whose ``annotation_path``
        names the new files is written to ``out_dir/manifest.csv``.
    replace_former : bool
        Take what came back for all there is: former annotations of the slides that came back
        are dropped, even where this halves their labels.

    Raises
    ------
    AnnotationError
        If no file can be used: damaged, of no known slide or of several, drawn on another
        image, or one that would halve the labels of its slide.
    UsageError
        If the manifest in ``out_dir`` was not written by an import.
    """
    source, out_dir = Path(source), Path(out_dir)
    table = read_manifest(manifest) if manifest else None
    names = SlideNames(Path(overlay_dir), table)
    target = _Target(out_dir)
    if table:
        _check_manifest(target)
    failed: dict[str, str] = {}
    first: AnnotationError | None = None
    by_slide: dict[str, list[Path]] = {}
    for path in geojson_files(source):
        try:
            by_slide.setdefault(names.slide_of(path), []).append(path)
        except AnnotationError as error:
            failed[path.name], first = str(error), first or error
    out_dir.mkdir(parents=True, exist_ok=True)
    done: list[ImportedAnnotations] = []
    for slide_id, files in sorted(by_slide.items()):
        record = dict(names.records[slide_id])
        try:
            done.append(_import_slide(files, record, target, table, replace_former))
        except AnnotationError as error:
            failed[" and ".join(p.name for p in files)] = str(error)
            first = first or error
    if first is not None and not done:
        raise first
    notes = _write_table(table, target) if table else ()
    imported = {one.slide_id for one in done}
    others = {row.slide_id for row in table.rows if row.slide_id not in imported} if table else ()
    return ImportReport(tuple(done), failed, len(others), notes)


def _check_manifest(target: _Target) -> None:
    try:
        target.check(target.folder / MANIFEST_NAME)
    except AnnotationError as error:
        raise UsageError(error.subject, error.problem, error.remedy) from None


def _write_table(table: Manifest, target: _Target) -> tuple[str, ...]:
    """The manifest with the labels of this and of earlier imports."""
    rows = tuple(
        replace(row, annotation_path=target.labels(row.slide_id).resolve())
        if target.has_labels(row.slide_id)
        else row
        for row in table.rows
    )
    path = target.folder.resolve() / MANIFEST_NAME
    target.claim(path)
    write_manifest(replace(table, rows=rows), path)
    return tuple(f"manifest: {note}" for note in table.notes)
