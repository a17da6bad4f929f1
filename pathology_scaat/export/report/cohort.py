"""What shows a whole cohort: the exported slides, read once, for the sheet and the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pathology_scaat.artifacts.checksums import text_problem
from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.export.report.differences import Difference
from pathology_scaat.export.report.records import (
    CHECKSUM_META,
    CONTACT_SHEET,
    PAGE,
    ExportedCohort,
    FailedSlide,
    read_cohort,
)

HEAD_CHARACTERS = 600
"""Fingerprint, checksum and the sheet's hash stand within so many characters of the beginning."""
_SHEET_META = re.compile(r'<meta name="contact-sheet" content="([0-9a-f]{64})">')


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
    return text_problem(page, CHECKSUM_META)


def _is_current(cohort: ExportedCohort, wanted: str, pictured: bool) -> bool:
    page, sheet = cohort.overlay_dir / PAGE, cohort.overlay_dir / CONTACT_SHEET
    if wanted not in _head(page) or page_problem(page) is not None:
        return False
    return not pictured or (sheet.is_file() and file_sha256(sheet) == stated_sheet(page))


def write_cohort(
    overlay_dir: Path,
    title: str = "Evidence maps",
    *,
    failed: Sequence[FailedSlide] = (),
    card: str | None = None,
    card_of: str = "",
    card_method: str = "",
    differences: Mapping[str, Difference] | None = None,
    earlier: Mapping[str, str] | None = None,
    slide_notes: Mapping[str, str] | None = None,
    slide_methods: Callable[[], Mapping[str, str]] | None = None,
) -> Sequence[Path]:
    """Write what shows a whole cohort, unless it is there: the contact sheet, then the page.

    ``failed`` slides are named on the page; ``card`` is a link to the trust card,
    which is of the model with the fingerprint ``card_of`` and of its maps by the attribution method
    ``card_method``, as far as that is known;
    ``differences`` say where several models differ about a slide, by slide id. ``earlier`` says
    why what is there of a slide is of an earlier run, by slide id; ``slide_notes`` what was noted
    of a slide before it was exported, ``slide_methods`` tells by which method each map was made,
    and is asked only where an export did not write that down.

    The page comes last and carries the fingerprint of both, so that a run that was killed
    between them makes them again.

    Returns
    -------
    sequence of Path
        What was written; empty where the right files were there.
    """
    from pathology_scaat.export.report.contact_sheet import write_contact_sheet
    from pathology_scaat.export.report.page import write_page

    cohort = read_cohort(
        overlay_dir,
        failed,
        card,
        differences,
        earlier,
        slide_notes,
        card_of=card_of,
        card_method=card_method,
        slide_methods=slide_methods,
    )
    pictured = any(cohort.picture(r, "png", "figure") for r in cohort.records)
    if _is_current(cohort, cohort.fingerprint(title), pictured):
        return []
    if not pictured:
        _remove_earlier_sheet(cohort.overlay_dir)
    made = [write_contact_sheet(cohort)] if pictured else []
    return [*made, write_page(cohort, title)]


def _remove_earlier_sheet(overlay_dir: Path) -> None:
    """Remove the sheet that the page before linked to: it shows maps that the page does not."""
    sheet, page = overlay_dir / CONTACT_SHEET, overlay_dir / PAGE
    if sheet.is_file() and page.is_file() and file_sha256(sheet) == stated_sheet(page):
        sheet.unlink()
