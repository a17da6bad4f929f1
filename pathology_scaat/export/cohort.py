"""What shows a whole cohort: the exported slides, read once, for the sheet and the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pathology_scaat.errors import ExportError
from pathology_scaat.export.sidecar import read_sidecar
from pathology_scaat.provenance import file_sha256, fingerprint
from pathology_scaat.seals import text_problem

CONTACT_SHEET = "contact_sheet.png"
PAGE = "index.html"
SCHEMA_VERSION = 2
HEAD_CHARACTERS = 600
"""Fingerprint, seal and the sheet's hash stand within so many characters of the beginning."""
SEAL_META = re.compile(r'<meta name="seal" content="([0-9a-f]{64})">')
_SHEET_META = re.compile(r'<meta name="contact-sheet" content="([0-9a-f]{64})">')


@dataclass(frozen=True)
class ExportedCohort:
    """The records of all slides in a folder of overlays, by slide id."""

    overlay_dir: Path
    records: tuple[dict[str, Any], ...]

    def picture(self, record: dict[str, Any], *kinds: str) -> Path | None:
        """The first picture of the given formats that a slide has."""
        for kind in kinds:
            for name, entry in record["files"].items():
                path = self.overlay_dir / Path(name).name
                if entry.get("format") == kind and path.is_file():
                    return path
        return None

    def fingerprint(self, title: str) -> str:
        """What page and sheet are made of: the slides' records, and with them their files."""
        return fingerprint(
            {"schema_version": SCHEMA_VERSION, "title": title, "records": list(self.records)}
        )


def read_cohort(overlay_dir: Path) -> ExportedCohort:
    """Read the records of a folder of overlays; what is no record is passed over."""
    overlay_dir = Path(overlay_dir)
    records = (read_sidecar(path) for path in overlay_dir.glob("*.json"))
    found = [record for record in records if record is not None]
    return ExportedCohort(overlay_dir, tuple(sorted(found, key=lambda r: str(r["slide_id"]))))


def small_picture(path: Path, side_px: int, box_px: Sequence[int] | None = None) -> Image.Image:
    """A picture, or a part (x, y, width, height) of it, no larger than ``side_px``.

    Raises
    ------
    ExportError
        If it cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError:
        raise ExportError(path.name, "is a damaged picture", "export the slide again") from None
    if box_px is not None:
        x, y, width, height = box_px
        small = small.crop((x, y, x + width, y + height))
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return small


def _head(page: Path) -> str:
    try:
        with page.open(encoding="utf-8") as stream:
            return stream.read(HEAD_CHARACTERS)
    except (OSError, UnicodeDecodeError):
        return ""


def stated_sheet(page: Path) -> str | None:
    """SHA-256 of the contact sheet that a page was written beside, if there was one."""
    found = _SHEET_META.search(_head(page))
    return found[1] if found else None


def page_problem(page: Path) -> str | None:
    """What is wrong with the bytes of a page, if anything."""
    return text_problem(page, SEAL_META)


def _is_current(cohort: ExportedCohort, wanted: str, pictured: bool) -> bool:
    page, sheet = cohort.overlay_dir / PAGE, cohort.overlay_dir / CONTACT_SHEET
    if wanted not in _head(page) or page_problem(page) is not None:
        return False
    return not pictured or (sheet.is_file() and file_sha256(sheet) == stated_sheet(page))


def write_cohort(overlay_dir: Path, title: str = "Saliency maps") -> Sequence[Path]:
    """Write what shows a whole cohort, unless it is there: the contact sheet, then the page.

    The page comes last and carries the fingerprint of both, so that a run that was killed
    between them makes them again.

    Returns
    -------
    sequence of Path
        What was written; empty where the right files were there.
    """
    from pathology_scaat.export.contact_sheet import write_contact_sheet
    from pathology_scaat.export.page import write_page

    cohort = read_cohort(overlay_dir)
    pictured = any(cohort.picture(r, "png", "figure") for r in cohort.records)
    if _is_current(cohort, cohort.fingerprint(title), pictured):
        return []
    made = [write_contact_sheet(cohort)] if pictured else []
    return [*made, write_page(cohort, title)]
