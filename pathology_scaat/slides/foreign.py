"""Files that are named like slides and are none that can be read: said for what they are."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.errors import SlideOpenError

_CONVERT = "convert it to OME-TIFF (for example with QuPath or Bio-Formats)"

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b'<DataObject ObjectType="DPUfsImport"', "is a Philips iSyntax file, which is not read"),
    (b"\x70\x00\x00\x00", "is a Leica LIF file, which is not read"),
    (b"SIS\x00", "is an Olympus ETS file, which is not read"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a Zeiss ZVI or Olympus OIB file, which is not read"),
    (b"\x89PNG", "is a PNG picture, not a slide that can be opened"),
    (b"\xff\xd8\xff", "is a JPEG picture, not a slide that can be opened"),
    (b"BM", "is a BMP picture, not a slide that can be opened"),
    (b"\x1f\x8b", "is packed with gzip, not a slide that can be opened"),
    (b"PK\x03\x04", "is a ZIP archive, not a slide that can be opened"),
    (b"%PDF", "is a PDF document, not a slide that can be opened"),
    (b"\x89HDF", "is an HDF5 file, not a slide that can be opened"),
)  # fmt: skip
"""First bytes of a file, and what it is."""

_ENDINGS = {
    ".vsi": "is an Olympus VSI file: the slide lies in the folder beside it, which is not read",
    ".isyntax": "is a Philips iSyntax file, which is not read",
    ".czi": "is named as a Zeiss CZI file, but is none",
}

_LOCAL_ONLY = {
    ".ndpi": "a Hamamatsu NDPI file", ".mrxs": "a MIRAX slide", ".vms": "a Hamamatsu VMS slide",
    ".scn": "a Leica SCN file", ".bif": "a Ventana BIF file", ".dcm": "a DICOM file",
    ".vsi": "an Olympus VSI file", ".czi": "a Zeiss CZI file",
    ".isyntax": "a Philips iSyntax file",
}  # fmt: skip
"""Families that are not read over the network, by the ending of their names."""


def refuse_remote(name: str) -> None:
    """Refuse a file by URL whose family needs more of it than ranges of one file.

    Raises
    ------
    SlideOpenError
        If its name says that it is of such a family.
    """
    words = _LOCAL_ONLY.get(Path(name).suffix.lower())
    if words is not None:
        raise SlideOpenError(name, f"is {words}, which is not read over the network", "download it")


def refuse_named(path: Path, head: bytes) -> None:
    """Refuse a file that can be named for what it is; return where nothing can be said.

    Parameters
    ----------
    path : Path
        The file.
    head : bytes
        Its first bytes.

    Raises
    ------
    SlideOpenError
        If it is known and is no slide that can be read.
    """
    if head.startswith(b"version https://"):
        raise SlideOpenError(path.name, "is a git-lfs pointer, not the slide", "run 'git lfs pull'")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        raise SlideOpenError(
            path.name, "is a web page saved under a slide's name", "download the slide again"
        )
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        raise SlideOpenError(
            path.name,
            f"lacks its folder '{path.stem}' of image data",
            "copy the folder beside the file",
        )
    if head[128:132] == b"DICM":
        raise SlideOpenError(
            path.name, "is a DICOM file, but no whole-slide image", "give a file of the slide"
        )
    for magic, words in MAGIC:
        if head.startswith(magic):
            raise SlideOpenError(path.name, words, _CONVERT)
    words = _ENDINGS.get(path.suffix.lower(), "")
    if words and (head or path.suffix.lower() == ".vsi"):
        raise SlideOpenError(path.name, words, _CONVERT)
