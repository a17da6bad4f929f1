"""Tables that CLAM and STAMP users have, as a manifest: slides found by name, nothing guessed.

CLAM: one table ``case_id, slide_id, label``, and ``splits_K.csv`` with the slide ids of train, val
and test in columns. STAMP: a clinical table with a column ``PATIENT`` and any number of targets,
and a slide table ``PATIENT, FILENAME``, whose file names are of features (``.h5``) or slides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathology_scaat.cohort.columns import COLUMNS
from pathology_scaat.cohort.folder import slides_of_folder
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.cohort.splits import SPLITS
from pathology_scaat.cohort.table import Table, read_table
from pathology_scaat.errors import ManifestError

NO_LABEL_WORDS = {"", "na", "n/a", "nan", "none", "null", "<na>"}
TRUE_WORDS, FALSE_WORDS = {"true"}, {"false"}
_FEATURE_ENDINGS = (".h5", ".pt", ".zarr")


def clam_manifest(
    table: Path, slides: Path, splits: Path | None = None, columns: Sequence[str] = ()
) -> Manifest:
    """A manifest from CLAM's table, with the slides of a folder.

    Parameters
    ----------
    table : Path
        ``case_id, slide_id, label``.
    slides : Path
        Folder of slides; a slide's file is found by its name without the ending.
    splits : Path, optional
        One ``splits_K.csv``: columns ``train``, ``val``, ``test`` of slide ids.
    columns : sequence of str
        Further columns of the table that the manifest is to have: a site, a time and an event.

    Raises
    ------
    ManifestError
        If a column is missing, a slide is named twice or not found in the folder, or the split
        table names other slides.
    """
    read = read_table(table)
    column = _columns(read, table.name, ("case_id", "slide_id", "label"))
    taken = _further(read, table.name, columns, ("case_id", "slide_id", "label"))
    files = _files_by_stem(slides)
    rows = [
        _row(
            cells[column["slide_id"]],
            cells[column["case_id"]],
            cells[column["label"]],
            files,
            f"{table.name}, line {line}",
        )
        for cells, line in zip(read.rows, read.lines, strict=True)
    ]
    _refuse_twice(rows, table.name)
    further = {
        name: {row.slide_id: cells[at].strip() for row, cells in zip(rows, read.rows, strict=True)}
        for name, at in taken.chosen.items()
    }
    alone = sum(not cells[column["case_id"]].strip() for cells in read.rows)
    said = (
        *read.notes,
        *_counted(alone, "has", "have", "no case_id: each counts as a patient of its own"),
        *_not_named(files, (row.slide_id for row in rows), table.name),
        *taken.notes,
    )
    if splits is None:
        return Manifest(tuple(rows), said, further=further)
    split_of = clam_splits(splits)
    known = {row.slide_id for row in rows}
    if unknown := sorted(set(split_of) - known):
        raise ManifestError(
            splits.name, f"names slide '{unknown[0]}', which {table.name} does not", "check both"
        )
    kept = tuple(replace(r, split=split_of[r.slide_id]) for r in rows if r.slide_id in split_of)
    notes: tuple[str, ...] = ()
    if len(kept) < len(rows):
        notes = (f"{len(rows) - len(kept)} slide(s) are in no split of {splits.name}: left out",)
    return Manifest(kept, (*notes, *said), further=further)


def clam_splits(path: Path) -> dict[str, str]:
    """Split of each slide by CLAM's ``splits_K.csv``, or ``splits_K_bool.csv``.

    Raises
    ------
    ManifestError
        If a column is missing, a slide is in two splits, or the table holds counts.
    """
    if path.stem.endswith("_descriptor"):
        raise ManifestError(
            path.name, "counts the slides of each class and names none", "give splits_K.csv"
        )
    read = read_table(path)
    column = _columns(read, path.name, SPLITS)
    cells_of = [[cells[column[split]].strip() for split in SPLITS] for cells in read.rows]
    values = {cell.casefold() for cells in cells_of for cell in cells if not _says_nothing(cell)}
    if values and values <= TRUE_WORDS | FALSE_WORDS and _has_names(read, column.values()):
        return _marked_splits(read, column, path.name)
    found: dict[str, str] = {}
    for cells in read.rows:
        for split in SPLITS:
            slide = cells[column[split]].strip()
            if _says_nothing(slide):
                continue
            if found.setdefault(slide, split) != split:
                raise ManifestError(
                    path.name, f"has slide '{slide}' in two splits", "keep it in one"
                )
    return found


def _has_names(read: Table, columns: Iterable[int]) -> bool:
    """Whether a table of marks names slides, in its first column."""
    return 0 not in columns and all(cells[0].strip() for cells in read.rows)


def _marked_splits(read: Table, column: Mapping[str, int], table_name: str) -> dict[str, str]:
    """Split of each slide where a row is a slide and its split is marked ``True``."""
    found: dict[str, str] = {}
    for cells, line in zip(read.rows, read.lines, strict=True):
        slide = cells[0].strip()
        marked = [s for s in SPLITS if cells[column[s]].strip().casefold() in TRUE_WORDS]
        if len(marked) > 1 or slide in found:
            raise ManifestError(
                f"{table_name}, line {line}", f"has slide '{slide}' twice", "keep it in one split"
            )
        if marked:
            found[slide] = marked[0]
    return found


def stamp_manifest(
    clini: Path,
    slide_table: Path,
    slides: Path,
    target: str | None,
    columns: Sequence[str] = (),
) -> Manifest:
    """A manifest from STAMP's two tables, with the slides of a folder.

    Patients without a value of the target, and slides of patients that the clinical table does
    not name, are left out and counted in the notes.

    Parameters
    ----------
    clini : Path
        Clinical table: ``PATIENT`` and a column for each target.
    slide_table : Path
        ``PATIENT, FILENAME``.
    slides : Path
        Folder of slides; the file is found by the name without the ending.
    target : str, optional
        Column of the clinical table that becomes the label; without it no slide has one, and
        nobody is left out for want of it.
    columns : sequence of str
        Further columns of the clinical table that the manifest is to have.

    Raises
    ------
    ManifestError
        If a column is missing, a patient has two values, or a slide is not found.
    """
    clinical = read_table(clini)
    at_patient = clinical.column("PATIENT", clini.name)
    used = ("PATIENT",) if target is None else ("PATIENT", target)
    taken = _further(clinical, clini.name, columns, used)
    wanted = dict(taken.chosen)
    if target is not None:
        wanted[target] = clinical.column(target, clini.name)
    value_of: dict[str, dict[str, str]] = {}
    n_nameless = 0
    for cells, line in zip(clinical.rows, clinical.lines, strict=True):
        patient = cells[at_patient].strip()
        if not patient:
            n_nameless += 1  # rows without a name are not one patient
            continue
        own = {name: cells[at].strip() for name, at in wanted.items()}
        first = value_of.setdefault(patient, own)
        if other := [name for name in own if own[name] != first[name]]:
            raise ManifestError(
                f"{clini.name}, line {line}",
                f"gives patient '{patient}' a second value of {other[0]}",
                "keep one row for each patient",
            )
    listed = read_table(slide_table)
    column = _columns(listed, slide_table.name, ("PATIENT", "FILENAME"))
    files = _files_by_stem(slides)
    rows, n_unknown, n_unlabelled, n_alone = [], 0, 0, 0
    named: list[str] = []
    without = dict.fromkeys(value_of)
    for cells, line in zip(listed.rows, listed.lines, strict=True):
        patient = cells[column["PATIENT"]].strip()
        named.append(_stem(cells[column["FILENAME"]].strip()))
        without.pop(patient, None)
        if not patient:
            n_alone += 1
            continue
        if patient not in value_of:
            n_unknown += 1
            continue
        label = "" if target is None else value_of[patient][target]
        if target is not None and _says_nothing(label):
            n_unlabelled += 1
            continue
        where = f"{slide_table.name}, line {line}"
        name = cells[column["FILENAME"]].strip()
        rows.append(_row(_stem(name), patient, label, files, where))
    _refuse_twice(rows, slide_table.name)
    if not rows:
        whom = "patient with a value of " + target if target else f"patient that {clini.name} names"
        raise ManifestError(slide_table.name, f"has no slide of a {whom}", "check both")
    notes = []
    if n_nameless:
        notes.append(f"{n_nameless} row(s) of {clini.name} without a PATIENT: left out")
    if n_alone:
        notes.append(f"{n_alone} slide(s) without a PATIENT in {slide_table.name}: left out")
    if n_unknown:
        notes.append(f"{n_unknown} slide(s) of patients that {clini.name} does not name: left out")
    if n_unlabelled:
        notes.append(f"{n_unlabelled} slide(s) of patients without a value of {target}: left out")
    if without:
        notes.append(
            f"{len(without)} patient(s) of {clini.name} have no slide in {slide_table.name}"
        )
    notes += _not_named(files, named, slide_table.name)
    return Manifest(
        tuple(rows),
        (*clinical.notes, *listed.notes, *notes, *taken.notes),
        further={
            name: {row.slide_id: value_of[row.patient_id][name] for row in rows}
            for name in taken.chosen
        },
    )


@dataclass(frozen=True)
class _Further:
    """Columns that are taken along, with their numbers, and what is said of the others."""

    chosen: dict[str, int]
    notes: tuple[str, ...]


def _further(table: Table, table_name: str, names: Sequence[str], used: Iterable[str]) -> _Further:
    """Columns that were asked for besides those that a manifest is made of.

    Raises
    ------
    ManifestError
        If the table has no such column, or it would stand in the manifest twice.
    """
    for name in names:
        if name.strip().casefold() in COLUMNS:
            raise ManifestError(
                f"--columns {name}", "is the name of a column that every manifest has",
                f"rename it in {table_name}",
            )  # fmt: skip
    chosen = {name: table.column(name, table_name) for name in names}
    known = {name.casefold() for name in (*used, *names)}
    left = [h.strip()[:40] for h in table.header if h.strip() and h.strip().casefold() not in known]
    if not left:
        return _Further(chosen, ())
    shown = ", ".join(left[:6]) + (", ..." if len(left) > 6 else "")
    return _Further(
        chosen, (f"columns of {table_name} that are not taken along (--columns does): {shown}",)
    )


def _columns(table: Table, table_name: str, wanted: Iterable[str]) -> dict[str, int]:
    """Numbers of several columns, by name."""
    return {name: table.column(name, table_name) for name in wanted}


def _says_nothing(text: str) -> bool:
    return text.casefold() in NO_LABEL_WORDS


def _stem(name: str) -> str:
    """A file name without folder and ending; dots within a name (TCGA's) stay."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    low = name.casefold()
    for ending in (*_FEATURE_ENDINGS, ".ome.tiff", ".ome.tif"):
        if low.endswith(ending):
            return name[: -len(ending)]
    return name


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Slides of a folder by every name that a table may call them; of features, where there are
    no slides, the files of features (``scaat train --features`` reads such a manifest)."""
    found: dict[str, list[Path]] = {}
    try:
        slides = [slide for slide, _ in slides_of_folder(folder.absolute()).rows]
    except ManifestError:
        folders = (folder.absolute(), folder.absolute() / "h5_files")
        slides = [path for folder in folders for path in sorted(folder.glob("*.h5"))]
        if not slides:
            raise
    for slide in slides:
        for name in {slide.name, slide.stem, _stem(slide.name)}:
            found.setdefault(name, []).append(slide)
    return found


def _row(
    slide_id: str, patient: str, label: str, files: Mapping[str, list[Path]], where: str
) -> ManifestRow:
    slide_id, patient, label = slide_id.strip(), patient.strip(), label.strip()
    here = files.get(slide_id, [])
    if len(here) != 1:
        raise ManifestError(
            where,
            f"names slide '{slide_id}', of which the folder holds {len(here) or 'none'}",
            "check the folder and the names",
        )
    return ManifestRow(
        slide_path=here[0],
        slide_id=slide_id,
        patient_id=patient or slide_id,
        label=None if _says_nothing(label) else label,
    )


def _refuse_twice(rows: Iterable[ManifestRow], subject: str) -> None:
    """Neither an id nor a file may stand in two rows: a file has its name with and without ending.

    Raises
    ------
    ManifestError
        If one does.
    """
    seen: set[str] = set()
    files: dict[str, str] = {}
    for row in rows:
        if row.slide_id in seen:
            raise ManifestError(subject, f"names slide '{row.slide_id}' twice", "keep one row")
        seen.add(row.slide_id)
        other = files.setdefault(str(row.slide_path), row.slide_id)
        if other != row.slide_id:
            raise ManifestError(
                subject, f"names one file twice, as '{other}' and '{row.slide_id}'", "keep one row"
            )


def _counted(count: int, one: str, several: str, what: str) -> tuple[str, ...]:
    """A note of how many slides something is the case for; none where there are none."""
    return (f"{count} slide(s) {one if count == 1 else several} {what}",) if count else ()


def _not_named(
    files: Mapping[str, list[Path]], named: Iterable[str], table: str
) -> tuple[str, ...]:
    """A note of how many files of the folder no row names."""
    every = {str(path) for paths in files.values() for path in paths}
    every -= {str(path) for name in named for path in files.get(name, [])}
    return _counted(len(every), "of the folder is", "of the folder are", f"in no row of {table}")
