"""Open an annotation file, whatever dialect it is in; what it is decides, not its name."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import BinaryIO

from pathology_scaat.annotations.geojson import count_lines_and_points, parse_geojson
from pathology_scaat.annotations.limits import one_budget
from pathology_scaat.annotations.model import LabelledPolygon, SkippedCounts
from pathology_scaat.annotations.report import AnnotationFile
from pathology_scaat.annotations.xml import parse_xml
from pathology_scaat.errors import AnnotationError

MAX_TEXT_BYTES = 128 << 20
"""Uncompressed text read at most; a file of 100,000 annotated nuclei is below 100 MB."""

MAX_ITEMS = 6_000_000
"""Lists and objects of JSON at most: each costs a hundred bytes once it is read."""

MAX_XML_TAGS = 2_000_000
"""Tags of XML at most: each costs four hundred bytes."""

_ACCEPTED = (
    "give QuPath GeoJSON (also .gz or .zip), ASAP/CAMELYON XML, Aperio ImageScope XML or HALO XML"
)


def read_annotations(
    path: Path | str,
    offset_px: tuple[float, float] = (0.0, 0.0),
    *,
    max_bytes: int = MAX_TEXT_BYTES,
) -> tuple[LabelledPolygon, ...]:
    """Read the annotated areas of a slide; :func:`read_annotation_file` also counts the rest.

    Understood are QuPath GeoJSON in all its shapes (FeatureCollection, array, single feature
    or geometry; plain, ``.gz`` or ``.zip``), ASAP/CAMELYON XML, Aperio ImageScope XML and HALO
    XML. Points, lines, empty geometries and objects that are not annotations (QuPath tiles,
    detections, cells, TMA cores; also as QuPath 0.2 wrote them) are left out; crossing polygons
    are repaired.

    Parameters
    ----------
    path : path
        The annotation file.
    offset_px : (float, float)
        Added to GeoJSON coordinates: QuPath writes them relative to the scanner's bounds
        where the slide has such. XML coordinates are always those of the full canvas.
    max_bytes : int
        Uncompressed bytes read at most.

    Returns
    -------
    tuple of LabelledPolygon
        In the order of the file, level-0 pixels.

    Raises
    ------
    AnnotationError
        One sentence: missing, too large, truncated, of no known dialect, or damaged.
    """
    return read_annotation_file(path, offset_px, max_bytes=max_bytes).polygons


def read_annotation_file(
    path: Path | str,
    offset_px: tuple[float, float] = (0.0, 0.0),
    *,
    max_bytes: int = MAX_TEXT_BYTES,
) -> AnnotationFile:
    """As :func:`read_annotations`, with the number of objects that were left out.

    Raises
    ------
    AnnotationError
        As there.
    """
    skipped = SkippedCounts()
    with one_budget():
        polygons = tuple(_read(Path(path), offset_px, max_bytes, skipped))
    return AnnotationFile(polygons, skipped.n_without_area, dict(skipped.n_not_annotations))


def _read(
    path: Path, offset_px: tuple[float, float], max_bytes: int, skipped: SkippedCounts
) -> list[LabelledPolygon]:
    found: list[LabelledPolygon] = []
    for raw in _texts(path, max_bytes):
        text = _decoded(raw, path.name)
        start = text.lstrip()[:1]
        if start in ("{", "["):
            _not_too_many(text.count("[") + text.count("{"), path.name)
            _not_too_many(text.count(","), path.name, 4 * MAX_ITEMS)
            found.extend(parse_geojson(text, path.name, offset_px, skipped))
        elif start == "<":
            _not_too_many(text.count("<"), path.name, MAX_XML_TAGS)
            _not_too_many(text.count("="), path.name, 4 * MAX_XML_TAGS)
            found.extend(parse_xml(raw if _is_utf8(raw) else text.encode(), path.name, skipped))
        elif not start:
            raise AnnotationError(path.name, "is empty", "export the annotations again")
        else:
            raise AnnotationError(path.name, "is not an annotation file", _ACCEPTED)
    return found


def _texts(path: Path, max_bytes: int) -> Iterator[bytes]:
    name = path.name
    if path.is_dir():
        raise AnnotationError(name, "is a folder", _ACCEPTED)
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
            stream.seek(0)
            if start[:2] == b"\x1f\x8b":
                with GzipFile(fileobj=stream) as unzipped:
                    yield _capped(unzipped, name, max_bytes)
            elif start == b"PK\x03\x04":
                yield from _zip_entries(stream, name, max_bytes)
            else:
                yield _capped(stream, name, max_bytes)
    except FileNotFoundError:
        raise AnnotationError(name, "does not exist", "correct annotation_path") from None
    except (BadGzipFile, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError):
        raise AnnotationError(
            name, "is a damaged or truncated archive", "export the annotations again"
        ) from None
    except OSError as error:
        raise AnnotationError(
            name, f"cannot be read ({error.strerror or 'read error'})", "check the file"
        ) from None


def _capped(stream: BinaryIO | GzipFile, name: str, max_bytes: int) -> bytes:
    parts = io.BytesIO()
    while block := stream.read(1 << 20):
        if parts.tell() + len(block) > max_bytes:
            raise AnnotationError(
                name,
                f"holds more than {max_bytes >> 20} MiB of text",
                "export annotations only, without detections",
            )
        parts.write(block)
    return parts.getvalue()


def _zip_entries(stream: BinaryIO, name: str, max_bytes: int) -> Iterator[bytes]:
    with zipfile.ZipFile(stream) as archive:
        entries = [
            entry
            for entry in archive.infolist()
            if entry.filename.lower().endswith((".geojson", ".json", ".xml"))
        ]
        if not entries:
            raise AnnotationError(name, "holds no .geojson, .json or .xml file", _ACCEPTED)
        left = max_bytes
        for entry in entries:
            if entry.flag_bits & 0x1:
                raise AnnotationError(name, "is encrypted", "give it without a password")
            with archive.open(entry) as unzipped:
                raw = _capped(unzipped, name, left)  # type: ignore[arg-type]
            left -= len(raw)
            yield raw


def _not_too_many(count: int, name: str, limit: int = MAX_ITEMS) -> None:
    if count > limit:
        raise AnnotationError(
            name,
            f"holds more than {limit // 1_000_000} million points or objects",
            "export annotations only, without detections",
        )


def _is_utf8(raw: bytes) -> bool:
    return not raw.startswith((b"\xff\xfe", b"\xfe\xff"))


def _decoded(raw: bytes, name: str) -> str:
    """Text of the bytes: UTF-8 with or without a mark, or marked UTF-16; XML may be Latin-1."""
    try:
        if not _is_utf8(raw):
            return raw.decode("utf-16")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        if raw.lstrip().startswith(b"<"):
            return raw.decode("latin-1")
        raise AnnotationError(name, "is not UTF-8 text", _ACCEPTED) from None


def lines_and_points(path: Path | str, *, max_bytes: int = MAX_TEXT_BYTES) -> tuple[int, int]:
    """How many lines and points with a class a GeoJSON holds; :func:`read_annotations` drops them.

    Raises
    ------
    AnnotationError
        As :func:`read_annotations`.
    """
    path = Path(path)
    lines = points = 0
    for raw in _texts(path, max_bytes):
        text = _decoded(raw, path.name)
        if text.lstrip()[:1] in ("{", "["):
            more_lines, more_points = count_lines_and_points(text, path.name)
            lines, points = lines + more_lines, points + more_points
    return lines, points
