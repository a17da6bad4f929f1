"""Which entries of a folder are slides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.dicom_files import DicomFolder, dicom_files, dicom_folder
from pathology_scaat.artifacts.output_folder import FOLDERS, is_output_folder
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
MAX_METADATA_CHARACTERS = 1 << 20
_OWN = "pathology_scaat"
"""The attribute that every store and map of this package carries."""

_HELP = "give a folder with slides in it, or a table"


@dataclass(frozen=True)
class FolderSlides:
    """Slides of a folder, each with its annotation file or None, and what was passed over."""

    rows: tuple[tuple[Path, Path | None], ...]
    notes: tuple[str, ...] = ()


def slides_of_folder(folder: Path) -> FolderSlides:
    """Slides below a folder, in order of their paths.

    Links to folders are not followed, so that no loop can be walked; hidden entries and
    what this package makes, maps that it exported among them, are passed over. A folder of one
    DICOM series is one slide; where several series lie side by side, or beside other slides, each
    is one slide, named by its largest file.

    Raises
    ------
    ManifestError
        If the folder cannot be read, holds no slide, or has several annotation files for one.
    """
    if not folder.is_dir():
        raise ManifestError(folder.name, "is not a folder", _HELP)
    if folder.name in FOLDERS and is_output_folder(folder.absolute().parent):
        raise ManifestError(folder.name, "is a part of an output folder, and holds no slide", _HELP)
    slides: list[Path] = []
    n_other = n_unreadable = entries = 0
    damaged_dicom = False
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
        files = [here / e.name for e in children if e.is_file() and not e.name.startswith(".")]
        own = [file for file in files if file.name.lower().endswith(SLIDE_ENDINGS)]
        dicom = dicom_folder(dicom_files(files))
        n_other += dicom.n_other
        # A folder of damaged DICOM may be a slide: it is listed, and fails with its reason.
        damaged = not own and not dicom.slides and dicom.n_unreadable > 0
        if not own and here != folder and (len(dicom.slides) == 1 or damaged):
            slides.append(here)
            continue
        damaged_dicom |= damaged and here == folder
        n_unreadable += dicom.n_unreadable
        slides.extend(own)
        slides.extend(slide.main for slide in dicom.slides)
        mirax = {Path(e.name).stem for e in files if e.name.lower().endswith(".mrxs")}
        ours = (*FOLDERS, "folds") if is_output_folder(here) else ()
        for entry in children:
            if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                continue
            if entry.name.lower().endswith(".zarr"):
                if _is_ome_zarr(here / entry.name):
                    slides.append(here / entry.name)
            elif entry.name not in mirax and entry.name not in ours:
                pending.append(here / entry.name)
    notes = DicomFolder((), n_other, n_unreadable).notes
    if not slides and damaged_dicom:
        return FolderSlides(((folder, None),), notes)
    if not slides:
        own_words = "is the output folder of a run, and " if is_output_folder(folder) else ""
        raise ManifestError(folder.name, f"{own_words}holds no slide", _HELP)
    if len(slides) == 1 and slides[0].parent == folder and _is_dicom_only(folder):
        return FolderSlides(((folder, None),), notes)
    slides.sort(key=lambda p: p.relative_to(folder).as_posix())
    # A folder of thousands of slides is listed once, not once for each of them.
    beside = {here: _files_of(here) for here in dict.fromkeys(slide.parent for slide in slides)}
    pairs = ((slide, _annotation_of(slide, beside[slide.parent])) for slide in slides)
    return FolderSlides(tuple(pairs), notes)


def _is_dicom_only(folder: Path) -> bool:
    """Whether the one slide found in a folder is a DICOM series."""
    return len(dicom_folder(dicom_files(f for f in folder.iterdir() if f.is_file())).slides) == 1


def _is_ome_zarr(path: Path) -> bool:
    """Whether a zarr folder is an image that others made; our own stores and maps are none."""
    if not path.name.lower().endswith(".ome.zarr"):
        wanted: tuple[str, ...] = ("multiscales", "bioformats2raw.layout")
    else:
        wanted = ()
    for name in ("zarr.json", ".zattrs"):
        try:
            text = (path / name).read_text(encoding="utf-8")[:MAX_METADATA_CHARACTERS]
        except (OSError, ValueError):
            continue
        if f'"{_OWN}"' in text:
            return False
        if any(f'"{word}"' in text for word in wanted):
            return True
    return not wanted


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
