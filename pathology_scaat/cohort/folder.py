"""Which entries of a folder are slides."""

from __future__ import annotations

import os
from pathlib import Path

from pathology_scaat.errors import ManifestError

SLIDE_ENDINGS = (
    ".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide", ".tif", ".tiff", ".btf",
    ".isyntax", ".czi", ".qptiff",
)  # fmt: skip
ANNOTATION_ENDINGS = (".geojson", ".geojson.gz", ".geojson.zip", ".xml", ".json")
MAX_ENTRIES = 1_000_000
_HELP = "give a folder with slides in it, or a table"


def rows_of_folder(folder: Path) -> list[tuple[Path, Path | None]]:
    """Slides below a folder, in order of their paths, each with its annotation file or None.

    Links to folders are not followed, so that no loop can be walked; hidden entries and
    what this package leaves unfinished are passed over.

    Raises
    ------
    ManifestError
        If the folder cannot be read or holds no slide.
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
    return [(slide, _annotation_of(slide)) for slide in slides]


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


def _annotation_of(slide: Path) -> Path | None:
    """The annotation file beside a slide with its name; GeoJSON before XML."""
    stems = dict.fromkeys((slide.stem, slide.name, slide.name.split(".ome.")[0]))
    for ending in ANNOTATION_ENDINGS:
        for stem in stems:
            candidate = slide.with_name(stem + ending)
            if candidate.is_file():
                return candidate
    return None
