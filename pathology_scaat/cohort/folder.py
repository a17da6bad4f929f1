"""Which entries of a folder are slides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.errors import ManifestError

SLIDE_ENDINGS = (
    ".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide", ".tif", ".tiff", ".btf",
    ".isyntax", ".czi", ".qptiff",
)  # fmt: skip
ANNOTATION_ENDINGS = (".geojson", ".geojson.gz", ".geojson.zip", ".xml", ".json", ".annotations")
_ANNOTATION_MARKS = (b'"Feature', b'"geometry"', b'"coordinates"', b"ASAP_Annot", b"<Annotations")
"""What annotations in JSON or XML have near their beginning."""

_SNIFF_BYTES = 1 << 16
MAX_ENTRIES = 1_000_000
_HELP = "give a folder with slides in it, or a table"


def rows_of_folder(folder: Path) -> list[tuple[Path, Path | None]]:
    """Slides below a folder, in order of their paths, each with its annotation file or None.

    Links to folders are not followed, so that no loop can be walked; hidden entries and
    what this package leaves unfinished are passed over.

    Raises
    ------
    ManifestError
        If the folder cannot be read, holds no slide, or has several annotation files for one.
    """
    if not folder.is_dir():
        raise ManifestError(folder.name, "is not a folder", _HELP)
    slides: list[Path] = []
    entries = 0
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            children = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError as error:
            if here == folder:
                raise ManifestError(folder.name, f"cannot be read ({error.strerror})") from None
            continue
        entries += len(children)
        if entries > MAX_ENTRIES:
            raise ManifestError(folder.name, f"holds more than {MAX_ENTRIES} entries", _HELP)
        files = [e for e in children if e.is_file() and not e.name.startswith(".")]
        if here != folder and _is_dicom(files):
            slides.append(here)
            continue
        slides.extend(here / e.name for e in files if e.name.lower().endswith(SLIDE_ENDINGS))
        mirax = {Path(e.name).stem for e in files if e.name.lower().endswith(".mrxs")}
        for entry in children:
            if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                continue
            if entry.name.lower().endswith(".zarr"):
                if entry.name.lower().endswith(".ome.zarr"):
                    slides.append(here / entry.name)
            elif entry.name not in mirax:
                pending.append(here / entry.name)
    if not slides:
        if _is_dicom([e for e in os.scandir(folder) if e.is_file()]):
            return [(folder, None)]
        raise ManifestError(folder.name, "holds no slide", _HELP)
    slides.sort(key=lambda p: p.relative_to(folder).as_posix())
    # A folder of thousands of slides is listed once, not once for each of them.
    beside = {here: _files_of(here) for here in dict.fromkeys(slide.parent for slide in slides)}
    return [(slide, _annotation_of(slide, beside[slide.parent])) for slide in slides]


def _is_dicom(files: list[os.DirEntry[str]]) -> bool:
    """A folder of DICOM instances: by ending, or by the mark that each instance carries."""
    if any(e.name.lower().endswith(".dcm") for e in files):
        return True
    if not files or any("." in e.name for e in files[:1]):
        return False
    try:
        with open(files[0].path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _annotation_of(slide: Path, files: Sequence[Path]) -> Path | None:
    """The annotation file beside a slide with its name, whatever the case of its ending.

    Of several, a ``.json`` or ``.xml`` counts only if it looks like annotations: scanners and
    other programs put files of such names beside slides.

    Raises
    ------
    ManifestError
        If there are several: one would be lost.
    """
    stems = {slide.stem, slide.name, slide.name.split(".ome.")[0]}
    wanted = {f"{stem}{ending}".casefold() for stem in stems for ending in ANNOTATION_ENDINGS}
    found = [path for path in files if path.name.casefold() in wanted and path != slide]
    if len(found) > 1:
        found = [path for path in found if _may_be_annotations(path)] or found[:1]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ManifestError(
            slide.name,
            f"has {len(found)} annotation files beside it ({names})",
            "join them into one, keep one, or name one in a table (annotation_path)",
        )
    return found[0] if found else None


def _files_of(folder: Path) -> tuple[Path, ...]:
    try:
        return tuple(sorted(p for p in folder.iterdir() if p.is_file()))
    except OSError:
        return ()


def _may_be_annotations(path: Path) -> bool:
    if not path.name.casefold().endswith((".json", ".xml")):
        return True
    try:
        with path.open("rb") as stream:
            start = stream.read(_SNIFF_BYTES)
    except OSError:
        return True  # what is wrong with it is said when it is read
    return any(mark in start.replace(b"\0", b"") for mark in _ANNOTATION_MARKS)
