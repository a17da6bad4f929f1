"""One slide under two patients: whoever trains on one copy must not be tested on the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import ManifestError, SlideOpenError, SlideReadError
from pathology_scaat.slides.fingerprint import slide_files, slide_fingerprint
from pathology_scaat.system.names import shown_names
from pathology_scaat.system.processes import usable_cores


def same_slides(rows: Iterable[ManifestRow]) -> list[tuple[ManifestRow, ...]]:
    """Groups of rows whose slide files hold the same bytes; remote slides are not looked at.

    Only slides of equal size are read, whole; their hashes are remembered for tiling.
    """
    by_size: dict[int, list[ManifestRow]] = {}
    for row in rows:
        if isinstance(row.slide_path, Path) and (
            row.slide_path.is_file() or row.slide_path.is_dir()
        ):
            try:
                size = sum(file.stat().st_size for file in slide_files(row.slide_path))
            except OSError:
                continue  # it fails when it is tiled
            by_size.setdefault(size, []).append(row)
    to_read = [row for alike in by_size.values() if len(alike) > 1 for row in alike]
    groups: dict[str, list[ManifestRow]] = {}
    # Threads suffice: disks answer several readers at once, and hashing holds no lock of Python's.
    with ThreadPoolExecutor(usable_cores()) as pool:
        for row, fingerprint in zip(to_read, pool.map(_fingerprint, to_read), strict=True):
            if fingerprint:
                groups.setdefault(fingerprint, []).append(row)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _fingerprint(row: ManifestRow) -> str:
    """Of a slide's bytes; empty where it cannot be read: it fails when it is tiled."""
    try:
        return slide_fingerprint(Path(str(row.slide_path)))
    except (SlideOpenError, SlideReadError):
        return ""


def shared_slide_notes(cohort: Manifest) -> tuple[str, ...]:
    """A sentence for each slide that the cohort holds more than once."""
    notes = []
    for group in same_slides(cohort.rows):
        ids = shown_names(row.slide_id for row in group)
        patients = {row.patient_id for row in group}
        text = f"slides {ids} hold the same bytes: one slide is listed {len(group)} times"
        if len(patients) > 1:
            text += f", under {len(patients)} patients; no model can be trained on such a cohort"
        notes.append(text)
    return tuple(notes)


def refuse_shared_slides(cohort: Manifest) -> None:
    """Refuse a cohort in which one slide belongs to two patients.

    Raises
    ------
    ManifestError
        Naming the slides.
    """
    for group in same_slides(cohort.rows):
        if len({row.patient_id for row in group}) > 1:
            raise same_bytes_error(row.slide_id for row in group)


def refuse_copies(rows: Sequence[ManifestRow], fingerprints: Sequence[str]) -> None:
    """Refuse tiled slides of one fingerprint under two patients: they train and validate at once.

    Raises
    ------
    ManifestError
        Naming the slides.
    """
    by_bytes: dict[str, list[ManifestRow]] = {}
    for row, fingerprint in zip(rows, fingerprints, strict=True):
        by_bytes.setdefault(fingerprint, []).append(row)
    for group in by_bytes.values():
        if len({row.patient_id for row in group}) > 1:
            raise same_bytes_error(row.slide_id for row in group)


def same_bytes_error(slide_ids: Iterable[str]) -> ManifestError:
    """The one sentence about a slide that two patients share."""
    return ManifestError(
        f"slides {shown_names(slide_ids)}",
        "hold the same bytes but belong to different patients",
        "give them one patient_id, or keep one of them",
    )
