"""GeoJSON that came back from QuPath: which slide a file is of, and what it holds.

A file is named after its slide: by the id, or by the slide's file name, with or without the
names of the folders before it. A name that may stand for two slides is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.annotations.reading import lines_and_points
from pathology_scaat.artifacts.urls import SlideLocation
from pathology_scaat.cohort.ids import id_key
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import AnnotationError
from pathology_scaat.export.qupath.palette import REGION_CLASSES
from pathology_scaat.export.sidecar import read_sidecar

SUFFIXES = (".geojson.gz", ".geojson.zip", ".geojson", ".json.gz", ".json")
IMPORT_RECORD = "import_record.json"
"""What an import leaves beside its labels."""

MAX_FOLDERS = 8
"""Folders of a slide's path that the name of a file may begin with."""


@dataclass(frozen=True)
class ReturnedAnnotations:
    """What one slide's files hold.

    Attributes
    ----------
    areas : tuple of LabelledPolygon
        Areas with a class of somebody's own, in the pixels of the scanned area, classes named
        as the model names them, cut at the edge of the image.
    unclassed_ids : frozenset of str
        Objects whose class was taken away.
    notes : tuple of str
        What was left out or cut, in words.
    """

    areas: tuple[LabelledPolygon, ...]
    unclassed_ids: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def geojson_files(source: Path) -> list[Path]:
    """The file itself, or the files of a folder; records of ours are none.

    Raises
    ------
    AnnotationError
        If there is no such file, or the folder holds none.
    """
    if source.is_file():
        return [source]
    if not source.exists():
        raise AnnotationError(source.name, "does not exist", "give the file or folder from QuPath")
    found = sorted(
        p
        for p in source.iterdir()
        if p.name.lower().endswith(SUFFIXES) and p.name != IMPORT_RECORD and not _is_record(p)
    )
    if not found:
        raise AnnotationError(
            source.name,
            "holds no .geojson file (nor .json, nor packed ones)",
            "export the annotations from QuPath into it",
        )
    return found


def _is_record(path: Path) -> bool:
    return path.suffix == ".json" and read_sidecar(path) is not None


def file_stem(path: Path) -> str:
    """The name without the endings that GeoJSON has."""
    name = path.name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def _slide_names(location: SlideLocation) -> Iterable[str]:
    """What a file of this slide may be called: its name, shortened, and with folders before."""
    name = location.name
    stems = dict.fromkeys((name, location.stem))
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(ending):
            stems[name[: -len(ending)]] = None
    folders = list(location.parts[1:-1]) if isinstance(location, Path) else []
    for stem in stems:
        yield stem
        for count in range(1, min(len(folders), MAX_FOLDERS) + 1):
            yield "_".join([*folders[-count:], stem])


class SlideNames:
    """Finds the slide that a file is of."""

    def __init__(self, overlay_dir: Path, table: Manifest | None) -> None:
        found = (read_sidecar(path) for path in sorted(Path(overlay_dir).glob("*.json")))
        self.records: dict[str, Mapping[str, Any]] = {
            str(record["slide_id"]): record for record in found if record is not None
        }
        self._ids: dict[str, set[str]] = {}
        for slide_id in self.records:
            self._ids.setdefault(id_key(slide_id), set()).add(slide_id)
        for row in table.rows if table else ():
            for name in (row.slide_id, *_slide_names(row.slide_path)):
                self._ids.setdefault(id_key(name), set()).add(row.slide_id)

    def slide_of(self, path: Path) -> str:
        """Id of the slide that a file is of.

        Raises
        ------
        AnnotationError
            If it is of none that was exported, or may be of several.
        """
        found = sorted(self._ids.get(id_key(file_stem(path)), ()))
        if len(found) > 1:
            raise AnnotationError(
                path.name,
                f"may be of {' or '.join(found[:4])}: they have one file name",
                "name it <slide id>.geojson",
            )
        if not found or found[0] not in self.records:
            raise AnnotationError(
                path.name,
                "belongs to no slide that was exported",
                "name it <slide>.geojson after the slide, and give the manifest if ids differ "
                "from names",
            )
        return found[0]


def _joined(files: list[Path], slide_id: str) -> list[LabelledPolygon]:
    """The objects of all files of a slide, each once."""
    seen: dict[str, tuple[LabelledPolygon, Path]] = {}
    found: list[LabelledPolygon] = []
    for path in files:
        for one in read_annotations(path):
            before = seen.get(one.object_id) if one.object_id else None
            if before is None:
                if one.object_id:
                    seen[one.object_id] = (one, path)
                found.append(one)
            elif before[0] != one:
                raise AnnotationError(
                    f"{before[1].name} and {path.name}" if before[1] != path else path.name,
                    f"hold an object of slide {slide_id} in two versions",
                    "keep the file that counts",
                )
    return list(dict.fromkeys(found)) if len(files) > 1 else found


def read_returned_annotations(files: list[Path], record: Mapping[str, Any]) -> ReturnedAnnotations:
    """Read all files of one slide.

    Raises
    ------
    AnnotationError
        If a file is damaged or drawn on another image, or two of them contradict each other.
    """
    slide_id = str(record["slide_id"])
    coordinates, scanned = record["coordinates"], record["scanned_px"]
    width, height = coordinates["frame_size_px"]
    shift = [o - scanned[k] for o, k in zip(coordinates["offset_px"], "xy", strict=True)]
    image = shapely.box(0, 0, width, height)
    names = {entry["qupath_name"].casefold(): entry["name"] for entry in record["classes"]}
    kept: list[LabelledPolygon] = []
    unclassed: list[str] = []
    own = cut = 0
    for polygon in _joined(files, slide_id):
        if not polygon.class_name:
            unclassed.append(polygon.object_id)
            continue
        if polygon.class_name in REGION_CLASSES:
            own += 1
            continue
        inside = polygon.geometry.intersection(image)
        if inside.area <= 0:
            raise AnnotationError(
                files[0].name,
                f"has an area outside the image of {width} x {height} px",
                "it was drawn on another image, or exported with another origin",
            )
        cut += not image.contains(polygon.geometry)
        moved = shapely.transform(inside, lambda xy: xy + shift)
        name = names.get(polygon.class_name.casefold(), polygon.class_name)
        kept.append(replace(polygon, class_name=name, geometry=moved))
    counts = [lines_and_points(path) for path in files]
    lines, points = (sum(part) for part in zip(*counts, strict=True))
    notes = [
        text
        for count, text in (
            (len(files) - 1, f"joined from {len(files)} files"),
            (len(unclassed), f"{len(unclassed)} annotations without a class left out"),
            (own, f"{own} regions of the map left out: nobody gave them a class"),
            (lines, f"{lines} lines with a class left out: they have no area"),
            (points, f"{points} points with a class left out: they have no area"),
            (cut, f"{cut} areas cut at the edge of the image"),
        )
        if count
    ]
    return ReturnedAnnotations(tuple(kept), frozenset(filter(None, unclassed)), tuple(notes))
