"""The way back: annotations that a pathologist corrected in QuPath, as labels for training.

What comes in is GeoJSON as QuPath exports it, by its own dialog or by the script of ours, in
the pixels of the image as QuPath opened it. What goes out is a file a slide as the manifest's
``annotation_path`` wants it: relative to the scanned area, classes named as the model names
them. Tiling adds the scanner's bounds again when it labels patches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely
from shapely.affinity import translate

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.artifacts.output_names import id_of_record
from pathology_scaat.cohort.manifest import read_manifest, write_manifest
from pathology_scaat.errors import AnnotationError
from pathology_scaat.export.qupath.geojson import object_id, polygon_geometry, write_geojson
from pathology_scaat.export.qupath.palette import HIGH_SALIENCY, qupath_class
from pathology_scaat.export.qupath.polygons import clean_polygons
from pathology_scaat.export.sidecar import read_sidecar, sidecar_path

SUFFIXES = (".geojson.gz", ".geojson", ".geojson.zip")
OWN_CLASS = ": ".join(HIGH_SALIENCY[0])


@dataclass(frozen=True)
class ImportedAnnotations:
    """What became of one file.

    Attributes
    ----------
    slide_id : str
    path : Path
        The annotation file that was written.
    classes : dict
        Areas kept, by class name.
    notes : tuple of str
        What was left out or cut, in words.
    """

    slide_id: str
    path: Path
    classes: dict[str, int]
    notes: tuple[str, ...] = ()


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = sorted(p for p in source.glob("*") if p.name.endswith(SUFFIXES))
    if not found:
        raise AnnotationError(
            source.name, "holds no .geojson file", "export the annotations from QuPath into it"
        )
    return found


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _record(path: Path, overlay_dir: Path, ids: Mapping[str, str]) -> dict[str, Any]:
    """The export's record of the slide that a file is of, by slide id or by slide file name."""
    stem = _stem(path)
    for slide_id in (stem, id_of_record(stem), ids.get(stem, "")):
        record = read_sidecar(sidecar_path(overlay_dir, slide_id)) if slide_id else None
        if record is not None:
            return record
    raise AnnotationError(
        path.name,
        "belongs to no slide that was exported",
        "name it <slide>.geojson after the slide, and give the manifest if ids differ from names",
    )


def _kept(
    polygons: tuple[LabelledPolygon, ...], record: Mapping[str, Any], subject: str
) -> tuple[list[LabelledPolygon], list[str]]:
    """Areas with a class of somebody's own, inside the image, classes named as the model does."""
    width, height = record["coordinates"]["frame_size_px"]
    image = shapely.box(0, 0, width, height)
    names = {entry["qupath_name"].casefold(): entry["name"] for entry in record["classes"]}
    kept: list[LabelledPolygon] = []
    unclassed = own = cut = 0
    for polygon in polygons:
        if not polygon.class_name:
            unclassed += 1
        elif polygon.class_name == OWN_CLASS:
            own += 1
        elif not polygon.geometry.intersects(image):
            raise AnnotationError(
                subject,
                f"has an area outside the image of {width} x {height} px",
                "it was drawn on another image, or exported with another origin",
            )
        else:
            cut += not image.contains(polygon.geometry)
            name = names.get(polygon.class_name.casefold(), polygon.class_name)
            inside = polygon.geometry.intersection(image)
            kept.append(replace(polygon, class_name=name, geometry=inside))
    notes = [
        text
        for count, text in (
            (unclassed, f"{unclassed} annotations without a class left out"),
            (own, f"{own} high-saliency regions left out: nobody gave them a class"),
            (cut, f"{cut} areas cut at the edge of the image"),
        )
        if count
    ]
    return kept, notes


def _features(
    kept: list[LabelledPolygon], shift_px: tuple[float, float], slide_id: str
) -> Iterator[str]:
    for polygon in kept:
        moved = translate(polygon.geometry, *shift_px)
        look = qupath_class(polygon.class_name)
        for part in clean_polygons(moved):
            geometry = polygon_geometry(part)
            properties: dict[str, Any] = {
                "objectType": "annotation",
                "classification": {"name": polygon.class_name, "color": list(look.colour)},
            }
            if polygon.name:
                properties["name"] = polygon.name
            key = (slide_id, "annotation", polygon.class_name, polygon.name, json.dumps(geometry))
            yield json.dumps(
                {
                    "type": "Feature",
                    "id": object_id(*key),
                    "geometry": geometry,
                    "properties": properties,
                },
                separators=(",", ":"),
                ensure_ascii=False,
            )


def _import_file(path: Path, record: Mapping[str, Any], out_dir: Path) -> ImportedAnnotations:
    slide_id = str(record["slide_id"])
    kept, notes = _kept(read_annotations(path), record, path.name)
    offset, scanned = record["coordinates"]["offset_px"], record["scanned_px"]
    shift = (offset[0] - scanned["x"], offset[1] - scanned["y"])
    out = out_dir / f"{slide_id}.geojson"
    # the same area drawn twice is one object
    write_geojson(out, iter(dict.fromkeys(_features(kept, shift, slide_id))))
    classes: dict[str, int] = {}
    for polygon in kept:
        classes[polygon.class_name] = classes.get(polygon.class_name, 0) + 1
    return ImportedAnnotations(slide_id, out, dict(sorted(classes.items())), tuple(notes))


def import_annotations(
    source: Path, overlay_dir: Path, out_dir: Path, *, manifest: Path | None = None
) -> tuple[ImportedAnnotations, ...]:
    """Turn GeoJSON corrected in QuPath into annotation files for the next training.

    Tiles and other detections, annotations without a class, and our own high-saliency regions
    that nobody gave another class are left out.

    Parameters
    ----------
    source : Path
        A GeoJSON file or a folder of them, named after the slides.
    overlay_dir : Path
        The run's overlays: their records say in which pixels QuPath counts.
    out_dir : Path
        Where ``<slide_id>.geojson`` are written.
    manifest : Path, optional
        The cohort table; a copy whose ``annotation_path`` names the new files is written to
        ``out_dir/manifest.csv``.

    Raises
    ------
    AnnotationError
        If a file is damaged, of no known slide, or drawn on another image.
    """
    source, out_dir = Path(source), Path(out_dir)
    table = read_manifest(manifest) if manifest else None
    ids: dict[str, str] = {}
    for row in table.rows if table else ():
        ids[row.slide_path.name] = ids[row.slide_path.stem] = row.slide_id
    out_dir.mkdir(parents=True, exist_ok=True)
    done = tuple(
        _import_file(path, _record(path, Path(overlay_dir), ids), out_dir)
        for path in _files(source)
    )
    if table:
        made = {one.slide_id: one.path.resolve() for one in done}
        rows = tuple(
            replace(row, annotation_path=made.get(row.slide_id, row.annotation_path))
            for row in table.rows
        )
        write_manifest(replace(table, rows=rows), out_dir / "manifest.csv")
    return done
