"""A slide of several files opens none outside its own folder.

Some formats name their other files in a text, or take whatever lies beside them. Who may write
a slide could so have anything read that the user may read, and shown in pixels, maps or
metadata. This is looked at before any reader is asked; the slide itself may be a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from string import whitespace

from pathology_scaat.errors import SlideOpenError

TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
DICOM_MAGIC = b"DICM"
DICOM_MAGIC_OFFSET = 128

MAX_INDEX_BYTES = 100 << 20
"""OpenSlide reads no larger text."""

_HEAD_BYTES = 64 << 10
_VMS_MARK = b"Virtual Microscope Specimen"  # of VMS; "Uncompressed ..." of VMU
_VMS_KEYS = re.compile(r"(ImageFile.*|MapFile|OptimisationFile|MacroImage)", re.IGNORECASE)
_MIRAX_INDEX = "Slidedat.ini"
_MIRAX_KEYS = re.compile(r"(INDEXFILE|FILE_\d+)", re.IGNORECASE)
_OME_NAMES = {"UUID": "FileName", "BinaryOnly": "MetadataFile"}
_TRESTLE_MACRO = ".Full"
_ZARR_FILES = (".zattrs", ".zgroup", ".zarray", "zarr.json")
_REMEDY = "put all files of the slide into one folder, as files and not as links"


def check_siblings(path: Path) -> None:
    """Refuse a slide that names, or links to, a file outside its own folder.

    Parameters
    ----------
    path : Path
        A slide's file, or the folder of a DICOM or OME-Zarr slide, that exists.

    Raises
    ------
    SlideOpenError
        If a file of it lies elsewhere, or its list of files cannot be read.
    """
    if path.is_dir():
        # A zarr image is a tree, whose entries are as many as its chunks.
        deep = any((path / name).exists() for name in _ZARR_FILES)
        _no_links_out(path, path.name, [path.resolve()], deep=deep)
        return
    head = _head(path)
    if path.suffix.lower() == ".mrxs":
        _check_mirax(path)
    elif head.startswith(TIFF_MAGIC):
        _check_names(path, path.parent, _ome_names(path), _roots(path))
        if not is_inside(path.with_suffix(_TRESTLE_MACRO), _roots(path)):
            raise _outside(path.name)
    elif head[DICOM_MAGIC_OFFSET:].startswith(DICOM_MAGIC):
        _no_links_out(path.parent, path.name, _roots(path), deep=False, but=path.name)
    elif _VMS_MARK in head:
        _check_names(path, path.parent, _ini_values(path, path.name, _VMS_KEYS), _roots(path))


def is_inside(path: Path, roots: list[Path]) -> bool:
    """Whether a path, links followed, lies in one of some folders (themselves resolved)."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links that go round, or a NUL
        return False
    return any(real.is_relative_to(root) for root in roots)


def _roots(path: Path) -> list[Path]:
    """The folders that a slide's files may lie in: where it is, and where it is linked to."""
    return [path.parent.resolve(), path.resolve().parent]


def _outside(subject: str) -> SlideOpenError:
    return SlideOpenError(subject, "names or links to a file outside of its own folder", _REMEDY)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD_BYTES)
    except OSError as error:
        raise SlideOpenError(
            path.name, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None


def _check_names(
    path: Path, folder: Path, names: Iterator[str] | list[str], roots: list[Path]
) -> None:
    for name in names:
        # Names written on Windows count as that system reads them, too.
        parts = name.replace("\\", "/").split("/")
        absolute = (parts[0] == "" and len(parts) > 1) or re.match(r"[A-Za-z]:/", "/".join(parts))
        if absolute or ".." in parts or not is_inside(folder / name, roots):
            raise _outside(path.name)


def _check_mirax(path: Path) -> None:
    folder = path.with_suffix("")
    if not folder.is_dir():
        return  # said by the reader
    if not is_inside(folder, _roots(path)):
        raise _outside(path.name)
    roots = [folder.resolve()]
    index = folder / _MIRAX_INDEX
    _check_names(path, folder, [_MIRAX_INDEX], roots)
    if index.is_file():
        _check_names(path, folder, _ini_values(index, path.name, _MIRAX_KEYS), roots)


def _ini_values(file: Path, subject: str, keys: re.Pattern[str]) -> Iterator[str]:
    """Values of some keys in every group of a key file; where one is repeated, all of them."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise SlideOpenError(
            subject, f"its list of files cannot be read ({error.strerror})", "check its permissions"
        ) from None
    if len(raw) > MAX_INDEX_BYTES:
        raise SlideOpenError(subject, "its list of files is huge", "copy the slide again")
    for line in raw.decode("utf-8", errors="surrogateescape").split("\n"):
        key, equals, value = line.partition("=")
        if equals and keys.fullmatch(key.strip("\ufeff" + whitespace)):
            yield value.strip(whitespace)


def _ome_names(path: Path) -> list[str]:
    """Files that the OME-XML of a TIFF names as parts of the same image."""
    import tifffile
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    from pathology_scaat.slides.tiff_reader import TIFF_ERRORS

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            text = tiff.ome_metadata
        if not text:
            return []
        root = ElementTree.fromstring(text)
    except DefusedXmlException:
        raise SlideOpenError(
            path.name, "holds a document type in its OME-XML, which may name other files",
            "write the OME-TIFF again",
        ) from None  # fmt: skip
    except (*TIFF_ERRORS, ElementTree.ParseError):
        return []  # said by the readers: none of them follows what it cannot parse
    names = []
    own = root.attrib.get("UUID")
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        name = element.attrib.get(_OME_NAMES.get(kind, ""))
        # The file's own name may be the one that it once had, with its folder.
        if name and not (kind == "UUID" and own is not None and element.text == own):
            names.append(name)
    return names


def _no_links_out(
    folder: Path, subject: str, roots: list[Path], *, deep: bool, but: str = ""
) -> None:
    """Refuse links in a folder (and below it) that lead out of it.

    Costs one listing of each folder; no file is opened. Where nothing below is read
    (``deep`` is False), links to folders lead nowhere.
    """
    waiting = [folder]
    try:
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        followed = deep or not entry.is_dir()
                        if followed and entry.name != but and not is_inside(Path(entry), roots):
                            raise _outside(subject)
                    elif deep and entry.is_dir():
                        waiting.append(Path(entry))
    except SlideOpenError:
        raise
    except OSError as error:
        raise SlideOpenError(
            subject, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None
