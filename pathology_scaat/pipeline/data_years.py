"""Years of a cohort's slides, for the model that is trained on them; only where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathology_scaat.cohort.manifest import ManifestRow
from pathology_scaat.slides.scan_year import scan_year
from pathology_scaat.training import TrainingSlide


def with_years(
    slides: Sequence[TrainingSlide], rows: Sequence[ManifestRow]
) -> tuple[TrainingSlide, ...]:
    """The slides with the year that each one's file states; None for those of a URL."""
    path_of = {row.slide_id: row.slide_path for row in rows}
    found = []
    for slide in slides:
        path = path_of.get(slide.slide_id)
        year = scan_year(path) if isinstance(path, Path) else None
        found.append(replace(slide, scan_year=year))
    return tuple(found)
