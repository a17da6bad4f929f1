"""The cohort table: one row per slide, checked before anything is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.urls import (
    SlideLocation,
    SlideUrl,
    check_url,
    is_url,
    slide_location,
)
from pathology_scaat.cohort.cells import (
    fold_cell,
    is_empty_word,
    is_split_word,
    label_cell,
    mpp_cell,
    patient_cell,
    split_cell,
)
from pathology_scaat.cohort.columns import COLUMNS, find_columns
from pathology_scaat.cohort.folder import slides_of_folder
from pathology_scaat.cohort.retyped import retyped_notes
from pathology_scaat.cohort.slide_ids import slide_ids_of
from pathology_scaat.cohort.spelling import (
    empty_word_notes,
    in_one_spelling,
    refuse_divided_patients,
    shared_annotation_notes,
)
from pathology_scaat.cohort.splits import Stratum, split_patients
from pathology_scaat.cohort.table import read_table
from pathology_scaat.errors import AddressError, ManifestError

__all__ = [
    "COLUMNS",
    "Manifest",
    "ManifestRow",
    "assign_splits",
    "read_manifest",
    "write_manifest",
]

Where = Callable[[int], str]
"""Names a row for a message, from its number."""


@dataclass(frozen=True)
class ManifestRow:
    """One slide. Paths are absolute; what the table did not say is None.

    ``fold`` is a number of cross-validation's; a patient has one fold, as it has one split.
    """

    slide_path: SlideLocation
    slide_id: str
    patient_id: str
    label: str | None = None
    split: str | None = None
    fold: int | None = None
    mpp: float | None = None
    annotation_path: Path | None = None
    mask_path: Path | None = None


@dataclass(frozen=True)
class Manifest:
    """The rows of a cohort, and what was assumed in reading them, in words.

    ``fingerprint_key`` is set where the cohort is under pseudonyms: hashes of slides and other
    files of it are then reported under this key only. ``further`` are columns of other names,
    cells by slide id, that are written beside those of the rows.
    """

    rows: tuple[ManifestRow, ...]
    notes: tuple[str, ...] = field(default=())
    fingerprint_key: bytes = field(default=b"", repr=False)
    further: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def slide_ids(self) -> tuple[str, ...]:
        return tuple(row.slide_id for row in self.rows)

    def patient_keys(self) -> dict[str, str]:
        """Slide id to what stands for its patient in outputs: the first slide id of the patient.

        It says which slides belong together and no more. Slides whose patient the table does
        not name have none.
        """
        first: dict[str, str] = {}
        for row in sorted(self.rows, key=lambda r: r.slide_id):
            first.setdefault(row.patient_id, row.slide_id)
        return {
            row.slide_id: first[row.patient_id]
            for row in self.rows
            if row.patient_id != row.slide_id
        }

    @classmethod
    def from_folder(cls, path: Path | str) -> Manifest:
        """A manifest of all slides in a folder and its subfolders, in order of their names.

        A DICOM series is one slide, a MIRAX file brings its companion folder along, and an
        annotation file beside a slide with the same name is taken as its annotation. Slides
        of one name in two folders get distinct ids.

        Raises
        ------
        ManifestError
            If the folder does not exist or holds no slide.
        """
        folder = Path(path).absolute()
        found = slides_of_folder(folder)
        cells = [
            {"slide_path": str(s), "annotation_path": str(a) if a else ""} for s, a in found.rows
        ]
        manifest = _checked(cells, folder, folder.name, lines=None)
        return replace(manifest, notes=(*found.notes, *manifest.notes))


def read_manifest(path: Path | str, *, needs_slides: bool = True) -> Manifest:
    """Read a cohort table (CSV, TSV, Parquet) or a folder of slides.

    Only ``slide_path`` is required. Column names are read without regard to case, and
    aliases are accepted (:data:`COLUMNS`); columns of other names are ignored and noted.
    Paths are relative to the table. A slide that does not exist is not an error here: it
    fails alone, in its own row of ``slides.csv``. Without ``needs_slides`` a table that names
    slides by ``slide_id`` alone is read too, the id standing for the file.

    Raises
    ------
    ManifestError
        One sentence for whatever is wrong: no such file, no table, no slide column, two
        columns for one thing, ids that cannot be file names, an id or slide listed twice,
        an impossible µm/px, an unknown split, a patient in two splits or two folds.
    """
    path = Path(path)
    if path.is_dir():
        return Manifest.from_folder(path)
    table = read_table(path)
    chosen, ignored = find_columns(table.header, path.name, needs_slides=needs_slides)
    chosen.setdefault("slide_path", chosen.get("slide_id", 0))
    cells = [
        _fold_or_split({name: row[index].strip() for name, index in chosen.items()})
        for row in table.rows
    ]
    notes = list(table.notes)
    if ignored:
        shown = ", ".join(ignored[:6]) + (", ..." if len(ignored) > 6 else "")
        notes.append(f"columns not used unless an option names them: {shown}")
    manifest = _checked(cells, path.absolute().parent, path.name, table.lines)
    return replace(manifest, notes=(*notes, *manifest.notes))


def _fold_or_split(row: dict[str, str]) -> dict[str, str]:
    """A column ``fold`` that says train, val or test is the split, where no other column is."""
    if "split" not in row and is_split_word(row.get("fold", "")):
        return {**row, "split": row["fold"], "fold": ""}
    return row


def manifest_text(manifest: Manifest, base: Path) -> str:
    """A manifest as CSV (commas), with paths relative to the folder ``base`` where possible."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *manifest.further])
    for row in manifest.rows:
        cells: list[str] = []
        for name in COLUMNS:
            value = getattr(row, name)
            if isinstance(value, Path):
                value = value.relative_to(base) if value.is_relative_to(base) else value
                value = value.as_posix()
            cells.append("" if value is None else str(value))
        cells += [of_slide.get(row.slide_id, "") for of_slide in manifest.further.values()]
        writer.writerow(cells)
    return text.getvalue()


def write_manifest(manifest: Manifest, path: Path | str) -> None:
    """Write a manifest as CSV (UTF-8, commas), with paths relative to it where possible."""
    path = Path(path)
    with atomic_path(path) as partial:
        text = manifest_text(manifest, path.absolute().parent)
        partial.write_text(text, encoding="utf-8", newline="")


def assign_splits(
    manifest: Manifest,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    *,
    trainable: Iterable[str] | None = None,
    classes: Mapping[str, Iterable[str]] | None = None,
) -> Manifest:
    """Give every slide without a split one, patient by patient.

    Patients, not slides, are assigned, stratified by their slides' labels, in an order
    drawn from the seed. Each class gets a patient to train on before anything else. Splits
    given in the table stay as they are, and their patients keep them. With few
    patients, training comes first, then validation, then the test; what stays empty is said
    in ``notes``.

    Parameters
    ----------
    manifest : Manifest
        The cohort.
    fractions : tuple of float
        Shares of patients for train, val and test; they are divided by their sum.
    seed : int
        Equal seeds give equal splits, whatever the order of the rows.
    trainable : iterable of str, optional
        Ids of slides that have something to learn from. By default those with a label or an
        annotation. Patients without any such slide are assigned apart from the others, so
        that the splits that matter are filled first.
    classes : mapping of slide id to class names, optional
        Classes that a slide shows. By default its label.

    Returns
    -------
    Manifest
        Every row with a split.

    Raises
    ------
    ManifestError
        If the fractions are not three shares of a whole with training above 0.
    """
    if trainable is None:
        useful = {r.slide_id for r in manifest.rows if r.label or r.annotation_path}
    else:
        useful = set(trainable)
    shown = {
        row.slide_id: frozenset(
            classes.get(row.slide_id, ()) if classes is not None else [row.label or ""]
        )
        for row in manifest.rows
    }
    strata: dict[str, Stratum] = {}
    fixed: dict[str, str] = {}
    by_patient: dict[str, list[ManifestRow]] = {}
    for row in manifest.rows:
        by_patient.setdefault(row.patient_id, []).append(row)
    for patient, own in by_patient.items():
        labels = sorted({row.label for row in own if row.label})
        strata[patient] = Stratum(
            is_useful=any(row.slide_id in useful for row in own),
            label="|".join(labels),
            classes=frozenset().union(*(shown[row.slide_id] for row in own)) - {""},
        )
        given = [row.split for row in own if row.split]
        if given:
            fixed[patient] = given[0]
    assigned, notes = split_patients(strata, fixed, fractions, seed)
    rows = tuple(replace(row, split=assigned[row.patient_id]) for row in manifest.rows)
    return Manifest(rows, (*manifest.notes, *notes))


def _checked(
    cells: Sequence[Mapping[str, str]], base: Path, subject: str, lines: Sequence[int] | None
) -> Manifest:
    if not cells:
        raise ManifestError(subject, "lists no slide", "add a row for each slide")

    def where(index: int) -> str:
        return subject if lines is None else f"{subject}, line {lines[index]}"

    values = [{k: ("" if is_empty_word(v) else v) for k, v in row.items()} for row in cells]
    # File names found in a folder may hold anything; cells of a table may not.
    strict = lines is not None
    slides: list[SlideLocation] = []
    for index, value in enumerate(values):
        slide = _slide(value.get("slide_path", ""), base, where(index), strict)
        if slide is None:
            raise ManifestError(where(index), "names no slide", "fill in slide_path")
        slides.append(slide)
    _refuse_duplicates(slides, where)
    ids = slide_ids_of([v.get("slide_id", "") for v in values], slides, base, where)
    notes: list[str] = []
    without = sum(not v.get("patient_id") for v in values)
    if without == len(values):
        notes.append("no patient_id: each slide counts as a patient of its own")
    elif without:
        notes.append(
            f"{without} of {len(values)} rows have no patient_id: each of these slides counts as "
            "a patient of its own"
        )
    rows = []
    for index, value in enumerate(values):
        rows.append(
            ManifestRow(
                slide_path=slides[index],
                slide_id=ids[index],
                patient_id=patient_cell(value.get("patient_id", ""), where(index)) or ids[index],
                label=label_cell(value.get("label", ""), where(index)),
                split=split_cell(value.get("split", ""), where(index)),
                fold=fold_cell(value.get("fold", ""), where(index)),
                mpp=mpp_cell(value.get("mpp", ""), where(index)),
                annotation_path=_path(value.get("annotation_path", ""), base, where(index), strict),
                mask_path=_path(value.get("mask_path", ""), base, where(index)),
            )
        )
    # Before they are given one spelling: the message names a patient as the table does.
    refuse_divided_patients(rows, subject)
    numbers = lines if lines is not None else range(1, len(rows) + 1)
    rows, spelled = in_one_spelling(rows, numbers)
    if strict:
        notes += retyped_notes(values, numbers)
    notes += [*empty_word_notes(cells), *spelled, *shared_annotation_notes(rows, numbers)]
    if any(row.fold is not None for row in rows):
        notes.append("folds were read: they are for cross-validation, and no splits")
    return Manifest(tuple(rows), tuple(notes))


def _slide(text: str, base: Path, where: str, strict: bool) -> SlideLocation | None:
    """Where a slide lies; unlike the files that belong to it, it may be given by URL."""
    if not (strict and is_url(text)):
        return _path(text, base, where, strict)
    try:
        location = slide_location(text)
        if isinstance(location, SlideUrl):
            check_url(location)
    except AddressError as error:
        raise ManifestError(where, error.problem, error.remedy) from None
    return location


def _path(text: str, base: Path, where: str, strict: bool = True) -> Path | None:
    if not text:
        return None
    if "\0" in text or len(text) > 4096 or (strict and not {"\n", "\r"}.isdisjoint(text)):
        raise ManifestError(where, "holds a path that no file can have", "correct the path")
    if strict and "://" in text:
        raise ManifestError(
            where, "names a remote address that is not a slide's", "copy the file and give its path"
        )
    path = base / Path(text).expanduser() if text.startswith("~/") else base / text
    if "\\" in text and not _exists(path):
        # A table written on Windows and read elsewhere.
        path = base / text.replace("\\", "/")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system
        return False


def _refuse_duplicates(slides: Sequence[SlideLocation], where: Where) -> None:
    seen: dict[str, int] = {}
    for index, slide in enumerate(slides):
        key = str(slide)
        if isinstance(slide, Path) and slide.name != "..":
            key = str(slide.parent.resolve() / slide.name)
        if key in seen:
            raise ManifestError(
                where(index), f"lists {slide.name} a second time", "keep one row for each slide"
            )
        seen[key] = index
