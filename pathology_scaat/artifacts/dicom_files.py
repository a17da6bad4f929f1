"""Which DICOM files of a folder are whole-slide images, and which belong together."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MARK = b"DICM"
_MARK_AT = 128
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage."""

_DIRECTORY = "DICOMDIR"
_ENDINGS = (".dcm", ".dicom")
_ENDING = re.compile(r"\.[A-Za-z]\w{0,5}$")
"""A file ending; what ends in numbers is a UID, as many archives name instances."""

_HEADER = ("SOPClassUID", "SeriesInstanceUID", "ImageType", "SamplesPerPixel", "BitsAllocated")


@dataclass(frozen=True)
class DicomSlide:
    """The instances of one series that are levels of a slide.

    ``main`` is the largest of them, by which the slide is opened and distinguished from others;
    ``problem`` says why it is no brightfield RGB slide, and is empty where it is one.
    """

    main: Path
    n_levels: int
    problem: str = ""


@dataclass(frozen=True)
class DicomFolder:
    """Slides among the DICOM files of a folder.

    ``n_other`` files are no whole-slide images (reports, annotations, a DICOMDIR);
    ``n_unreadable`` cannot be read as DICOM, so that nobody knows.
    """

    slides: tuple[DicomSlide, ...] = ()
    n_other: int = 0
    n_unreadable: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        for n, what in (
            (self.n_other, "no whole-slide image"), (self.n_unreadable, "damaged")
        ):  # fmt: skip
            if n:
                notes.append(
                    f"passed over {n} DICOM file{' that is' if n == 1 else 's that are'} {what}"
                )
        return tuple(notes)


def has_dicom_mark(file: Path) -> bool:
    """Whether a file carries the mark of DICOM after its preamble."""
    try:
        with file.open("rb") as stream:
            return stream.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK
    except OSError:
        return False


def dicom_files(files: Iterable[Path]) -> tuple[Path, ...]:
    """Those of some files that are DICOM: by ending, or without one by their mark."""
    found = []
    for file in files:
        name = file.name.lower()
        if name.endswith(_ENDINGS) or (_ENDING.search(name) is None and has_dicom_mark(file)):
            found.append(file)
    return tuple(sorted(found))


def dicom_folder(files: Iterable[Path]) -> DicomFolder:
    """Group DICOM files by series: each series with levels of a slide is one slide.

    Files that cannot be read as DICOM are counted.
    """
    levels: dict[str, list[Path]] = {}
    problems: dict[str, str] = {}
    others = unreadable = 0
    for file in files:
        header = _header(file)
        kind = str(header.get("ImageType", "")).upper()
        if "SOPClassUID" not in header and file.name.upper() != _DIRECTORY:
            unreadable += 1
        elif header.get("SOPClassUID") != _WHOLE_SLIDE:
            others += 1
        elif "VOLUME" in kind:
            series = str(header.get("SeriesInstanceUID", ""))
            levels.setdefault(series, []).append(file)
            problems[series] = problems.get(series) or _problem(header)
        # Else a label, overview or thumbnail: no slide, and no surprise.
    slides = [
        DicomSlide(max(found, key=_size), len(found), problems[series])
        for series, found in levels.items()
    ]
    return DicomFolder(tuple(sorted(slides, key=lambda s: s.main)), others, unreadable)


def _size(file: Path) -> tuple[int, str]:
    try:
        return os.stat(file).st_size, file.name
    except OSError:
        return 0, file.name


def _problem(header: dict[str, object]) -> str:
    if header.get("SamplesPerPixel", 3) != 3:
        return "is grey (one channel), not RGB"
    if header.get("BitsAllocated", 8) != 8:
        return f"has {header['BitsAllocated']} bits per channel, where 8 are needed"
    return ""


def _header(file: Path) -> dict[str, object]:
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that do not keep to the standard
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_HEADER))
            return {name: dataset.get(name) for name in _HEADER if name in dataset}
    except Exception:  # a parser of damaged files raises whatever it meets
        return {}
