"""The year in which a slide was scanned, as its file states it; nothing finer is ever read.

A date of a scan may identify its patient; a year alone hardly does, and is what says how old a
model's data are. It is read where it was asked for, and nowhere else: of a slide nothing but
geometry is known to the rest of the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import openslide
import tifffile

EARLIEST = 1995
"""No whole slide was scanned before; a file that says so holds a placeholder."""

_PROPERTIES = (
    "aperio.Date", "leica.creation-date", "mirax.GENERAL.SLIDE_CREATIONDATETIME",
    "philips.DICOM_ACQUISITION_DATETIME", "dicom.AcquisitionDateTime", "ventana.ScanDate",
    "trestle.Date", "tiff.DateTime",
)  # fmt: skip
"""Where formats keep the date of the scan; a plain TIFF's is that of the file."""
_TIFF_DATE_TAG = 306
_ACQUIRED = re.compile(r"<(?:\w+:)?AcquisitionDate>(\d{4})")
_WHOLE = re.compile(r"(?<!\d)((?:19|20)\d{2})(?=\d{4}(?!\d)|\d{10}|\D|$)")
_SHORT = re.compile(r"^\d{1,2}/\d{1,2}/(\d{2})(?!\d)")


def year_in(text: str) -> int | None:
    """The year of a date in any of the forms that scanners write; None where it is implausible.

    Examples
    --------
    >>> [year_in(t) for t in ("12/29/09", "2016:07:18 09:00:00", "20160718", "1970-01-01", "?")]
    [2009, 2016, 2016, None, None]
    """
    found = _WHOLE.search(text)
    short = None if found else _SHORT.match(text.strip())
    if found is None and short is None:
        return None
    year = int(found[1]) if found is not None else 2000 + int(short[1] if short else 0)
    return year if EARLIEST <= year <= datetime.now(UTC).year else None


def _of_properties(properties: Mapping[str, str]) -> int | None:
    years = (year_in(properties[name]) for name in _PROPERTIES if name in properties)
    return next((year for year in years if year is not None), None)


def _of_tiff(path: Path) -> int | None:
    with tifffile.TiffFile(path) as file:
        acquired = _ACQUIRED.search(file.ome_metadata or "")
        if acquired is not None:
            return year_in(acquired[1])
        tag = file.pages.first.tags.get(_TIFF_DATE_TAG)
        return None if tag is None else year_in(str(tag.value))


def scan_year(path: Path) -> int | None:
    """The year that a slide's file states; None where it states none, or cannot be asked.

    When a file was copied or changed on this disk is no date of a slide, and never taken for one.
    """
    try:
        with openslide.OpenSlide(path) as handle:
            year = _of_properties(handle.properties)
    except (openslide.OpenSlideError, OSError, ValueError):
        year = None
    if year is not None or path.suffix.lower() not in (".tif", ".tiff"):
        return year
    try:
        return _of_tiff(path)
    except Exception:  # a reader of damaged files raises anything; no year is no failure
        return None
