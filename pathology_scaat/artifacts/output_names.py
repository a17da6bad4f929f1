"""The names of files in an output folder: one function, and no two files of one name.

Many kinds of files of many slides lie in one folder, and an id may be anything that a file may be
called: the picture of a slide ``a.figure`` would be the figure of a slide ``a``, and that of a
slide ``contact_sheet`` the contact sheet. Such ids get a ``~`` behind them in names of files.
"""

from __future__ import annotations

import re
from typing import Final

from pathology_scaat.errors import UsageError

CONTACT_SHEET: Final = "contact_sheet.png"
PAGE: Final = "index.html"
CRATE_NAME: Final = "ro-crate-metadata.json"
CARD_SUMS: Final = "trust_card.sha256"
"""SHA-256 of the files of a trust card, in ``evaluation``."""
COMPARISON_SUMS: Final = "comparison.sha256"
"""SHA-256 of the files of a comparison, in ``comparison``."""
REPORT_SUMS: Final = "documents.sha256"
"""SHA-256 of model card and checklists as they were written, in ``report``."""
RECORD_SUFFIX: Final = ".json"
SEGMENTATION_SUFFIX: Final = ".seg.dcm"

FORMAT_SUFFIXES: Final = {
    "geojson": ".geojson.gz",
    "geojson-plain": ".geojson",
    "ome-tiff": ".ome.tiff",
    "rgb-tiff": ".rgb.tiff",
    "tile-png": ".tiles.png",
    "png": ".png",
    "figure": ".figure.png",
    "csv": ".csv",
    "annotation-store": ".db",
    "dicom": ".ann.dcm",
    "dicom-map": ".pm.dcm",
    "dicom-sr": ".sr.dcm",
}
"""What stands behind the slide's id, for each export format."""

SUFFIXES: Final = (*FORMAT_SUFFIXES.values(), RECORD_SUFFIX, SEGMENTATION_SUFFIX)
"""Everything that stands behind an id in the folder of overlays."""

_ESCAPE = "~"
_INNER = frozenset(
    longer.removesuffix(shorter)
    for longer in SUFFIXES
    for shorter in SUFFIXES
    if longer != shorter and longer.endswith(shorter)
)
"""``.figure`` and the like: an id that ends so, with a shorter suffix, would be another's file."""

_WHOLE = frozenset(
    name.removesuffix(suffix)
    for name in (CONTACT_SHEET, PAGE, "manifest.csv")
    for suffix in (*SUFFIXES, ".html")
    if name.endswith(suffix)
)
"""Ids whose file would be one of the cohort's."""


PICTURE_KINDS: Final = ("probability", "evidence", "saliency")
"""What a picture may show; each class has one of each kind."""

_PLUG_IN = ".plugin-"
_PLUG_IN_NAME = re.compile(r"[a-z0-9-]+")
_PLUG_IN_SUFFIX = re.compile(r"(\.[a-z0-9]+)+")
_INNER_NAMES = re.compile(rf"\.(?:{'|'.join(PICTURE_KINDS)})(?:-\d[^.]*)?$|{re.escape(_PLUG_IN)}")
"""In an id: what stands behind another slide's id in the name of a picture or a plug-in's file."""


def file_stem(slide_id: str) -> str:
    """What names of files begin with for a slide: its id, nearly always as it is."""
    folded = slide_id.casefold()
    taken = folded in _WHOLE or folded.endswith((*_INNER, _ESCAPE))
    taken = taken or _INNER_NAMES.search(folded) is not None
    return slide_id + _ESCAPE if taken else slide_id


def overlay_name(slide_id: str, suffix: str) -> str:
    """Name of a slide's file in the folder of overlays; different for different (id, suffix).

    Parameters
    ----------
    slide_id : str
        A safe id (:mod:`pathology_scaat.cohort.ids`); two differ in more than case.
    suffix : str
        One of `SUFFIXES`.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"{suffix} is no suffix of a file of overlays")
    return file_stem(slide_id) + suffix


def picture_name(kind: str, number: int, class_name: str) -> str:
    """What stands between a slide's id and ``.png``: the kind, and the class if not the target.

    Parameters
    ----------
    kind : str
        One of `PICTURE_KINDS`.
    number : int
        Number of the class among those shown; 0 is the target class.
    class_name : str
        For people who read the folder; the number tells classes apart.
    """
    if kind not in PICTURE_KINDS:
        raise ValueError(f"{kind} is no kind of picture")
    word = re.sub(r"[^\w]+", "-", class_name).strip("-").lower()
    return kind if number == 0 else f"{kind}-{number}-{word}".rstrip("-")


def plug_in_name(slide_id: str, name: str, suffix: str) -> str:
    """Name of the file that an exporter of another package makes for a slide.

    Raises
    ------
    UsageError
        If the exporter's name or ending is not made of plain letters and digits.
    """
    if not _PLUG_IN_NAME.fullmatch(name) or not _PLUG_IN_SUFFIX.fullmatch(suffix):
        raise UsageError(
            "--formats",
            f"the exporter '{name}' states no usable ending ('{suffix}')",
            "ask who wrote it for a suffix such as '.xml'",
        )
    return f"{file_stem(slide_id)}{_PLUG_IN}{name}{suffix}"


def id_of_record(name: str) -> str:
    """The slide's id from the name of its record (``<id>.json``)."""
    stem = name.removesuffix(RECORD_SUFFIX)
    return stem.removesuffix(_ESCAPE)


def tissue_name(slide_id: str) -> str:
    """Name of a slide's picture in the folder ``tissue``."""
    return f"{slide_id}.png"
