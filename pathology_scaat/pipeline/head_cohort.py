"""A cohort's table and a folder of features, as bags with what is to be learnt or predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathology_scaat.cohort.column import column_of
from pathology_scaat.cohort.external import DEVELOPMENT_FRACTIONS
from pathology_scaat.cohort.manifest import Manifest, ManifestRow, assign_splits, read_manifest
from pathology_scaat.cohort.mistaken import not_features
from pathology_scaat.cohort.outcomes import events_of, times_of
from pathology_scaat.errors import ManifestError, TrainingError, UsageError
from pathology_scaat.system.look_alikes import look_alike_notes
from pathology_scaat.system.names import normal_name, shown_names, spelled_as
from pathology_scaat.training.bundle_config import class_names_problem
from pathology_scaat.training.heads.config import Target, Unit
from pathology_scaat.training.heads.data import FeatureBag
from pathology_scaat.training.heads.feature_files import (
    FeatureFile,
    feature_ids,
    find_feature_file,
    read_feature_file,
)

LABEL = "label"
NO_FEATURES = "{n} slide(s) of the table have no file of features ({named}): left out."


@dataclass(frozen=True)
class FeatureCohort:
    """Rows that have a file of features, and what is to be said of the others."""

    table: Path
    manifest: Manifest
    files: Mapping[str, FeatureFile]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[ManifestRow, ...]:
        return tuple(row for row in self.manifest.rows if row.slide_id in self.files)


def read_feature_cohort(
    table: Path, features: Path, *, option: str = "--manifest", folder_option: str = "--features"
) -> FeatureCohort:
    """A table and the features of its slides; only the files' heads are read.

    Parameters
    ----------
    table, features : Path
    option, folder_option : str
        What the user gave them by, for what is said of them.

    Raises
    ------
    ManifestError
        If the table cannot be read.
    UsageError
        If the folder holds no features, or none of the table's slides.
    StoreError
        If a file is none, or damaged.
    """
    if not table.is_file():
        raise UsageError(option, "is no table", "give the cohort's table (CSV)")
    held = feature_ids(features) if features.is_dir() else ()
    if not held:
        raise UsageError(folder_option, *not_features(features))
    manifest = read_manifest(table, needs_slides=False)
    files = {}
    for row in manifest.rows:
        path = find_feature_file(features, row.slide_id)
        if path is not None:
            files[row.slide_id] = read_feature_file(path, row.slide_id)
    if not files:
        raise UsageError(
            folder_option,
            f"holds {len(held)} files, none of them a slide's of the table ({held[0]}.h5)",
            "name the slides in the table as the files are named, without the ending",
        )
    notes = list(manifest.notes)
    missing = [row.slide_id for row in manifest.rows if row.slide_id not in files]
    if missing:
        notes.append(NO_FEATURES.format(n=len(missing), named=_some(missing)))
    others = sorted(set(held) - set(files))
    if others:
        notes.append(f"{len(others)} file(s) of features are of no slide of the table.")
    notes += mixed_patches(files.values())
    return FeatureCohort(table, manifest, files, tuple(notes))


def mixed_patches(files: Iterable[FeatureFile]) -> tuple[str, ...]:
    """That features are of patches of several sizes, where the files say so."""
    found = Counter(file.patch_words for file in files if file.patch_words)
    if len(found) < 2:
        return ()
    said = "; ".join(f"{n} of {words}" for words, n in found.most_common())
    return (
        f"The files of features state patches of several sizes ({said}): a patch does not show the "
        "same everywhere; give features of one size and magnification.",
    )


def refuse_copied_features(*cohorts: FeatureCohort) -> None:
    """Refuse the same features under two patients: one would be trained, the other tested on.

    Raises
    ------
    ManifestError
        Naming the slides.
    """
    groups: dict[str, list[ManifestRow]] = {}
    for cohort in cohorts:
        for row in cohort.rows:
            groups.setdefault(cohort.files[row.slide_id].fingerprint, []).append(row)
    for group in groups.values():
        if len({row.patient_id for row in group}) > 1:
            raise ManifestError(
                f"slides {shown_names(row.slide_id for row in group)}",
                "have the same features but belong to different patients",
                "give them one patient_id, or keep one of them",
            )


def _cells(cohort: FeatureCohort, column: str) -> dict[str, str]:
    if column == LABEL:  # by any of the names that the table may have for it
        return {row.slide_id: row.label for row in cohort.manifest.rows if row.label}
    found = column_of(cohort.table, column, cohort.manifest)
    return {slide: normal_name(text) for slide, text in found.items()}


def completed(target: Target, cohort: FeatureCohort) -> Target:
    """The target with the classes that the table has, where none are named.

    Raises
    ------
    ManifestError
        If the table has not the column, or a value that is no grade.
    UsageError
        If grades are not named.
    """
    if target.kind == "survival":
        return target
    have = {row.slide_id for row in cohort.rows}
    values = sorted({v for s, v in _cells(cohort, target.column).items() if s in have})
    if target.kind == "classes":
        names = target.names or tuple(values)
        if problem := class_names_problem(names):
            raise ManifestError(
                f"column {target.column}",
                problem,
                "write each class in one way",
            )
        return target.model_copy(update={"names": names})
    if not target.names:
        raise UsageError("--grades", "names no grades", "name them from lowest to highest")
    if strange := [v for v in values if v not in target.names]:
        raise ManifestError(
            f"column {target.column}",
            f"has values that --grades does not name: {', '.join(strange[:5])}",
            "name all grades from lowest to highest, or empty these cells",
        )
    return target


def value_notes(target: Target, cohort: FeatureCohort) -> tuple[str, ...]:
    """What is to be said of a target's values; of the column ``label`` the table said it."""
    if target.kind == "survival" or target.column == LABEL:
        return ()
    return tuple(look_alike_notes(f"values of column {target.column},", "class", target.names))


@dataclass(frozen=True)
class Truth:
    """What the table says of a slide; of survival time and event."""

    label: str = ""
    time: float | None = None
    event: bool | None = None


def truth_of(cohort: FeatureCohort, target: Target, *, needed: bool) -> dict[str, Truth]:
    """What the table says of each slide; nothing where it has no such column and none is needed.

    Raises
    ------
    ManifestError
        If a column is missing and needed, or a cell cannot be.
    """
    try:
        if target.kind != "survival":
            cells = _cells(cohort, target.column)
            return {s: Truth(spelled_as(text, target.names)) for s, text in cells.items()}
        texts = _cells(cohort, target.column), _cells(cohort, target.event_column)
    except ManifestError:
        if needed:
            raise
        return {}
    times, events = times_of(texts[0], target.column), events_of(texts[1], target.event_column)
    return {s: Truth("", times[s], events[s]) for s in times if s in events}


def make_bags(
    cohort: FeatureCohort,
    truth: Mapping[str, Truth],
    unit: Unit,
    splits: Mapping[str, str] | None = None,
) -> list[FeatureBag]:
    """The cohort's bags: one a slide, or one of all slides of a patient.

    Raises
    ------
    ManifestError
        If bags are of patients, and slides of one say different things.
    """
    given = splits or {}
    if unit == "slide":
        return [
            _bag(row.slide_id, row.patient_id, given, [row], cohort, truth) for row in cohort.rows
        ]
    by_patient: dict[str, list[ManifestRow]] = {}
    for row in cohort.rows:
        by_patient.setdefault(row.patient_id, []).append(row)
    for patient, rows in by_patient.items():
        said = {truth[r.slide_id] for r in rows if r.slide_id in truth}
        if len(said) > 1:
            raise ManifestError(
                f"patient '{patient}'",
                "has slides of which the table says different things",
                "say the same of all slides of a patient, or learn from bags of slides",
            )
    return [
        _bag(patient, patient, given, rows, cohort, truth) for patient, rows in by_patient.items()
    ]


def _bag(
    bag_id: str,
    patient: str,
    splits: Mapping[str, str],
    rows: Sequence[ManifestRow],
    cohort: FeatureCohort,
    truth: Mapping[str, Truth],
) -> FeatureBag:
    said = next((truth[r.slide_id] for r in rows if r.slide_id in truth), Truth())
    files = tuple(cohort.files[r.slide_id] for r in rows)
    split = next((splits[r.slide_id] for r in rows if r.slide_id in splits), "")
    return FeatureBag(bag_id, patient, split, files, said.label, said.time, said.event)


def labelled_rows(cohort: FeatureCohort, truth: Mapping[str, Truth]) -> list[ManifestRow]:
    """Rows of which the table says something; their label is what they are stratified by.

    Of survival that is whether the event was seen.

    Raises
    ------
    TrainingError
        If the table says nothing of any slide that has features.
    """
    rows = []
    for row in cohort.rows:
        if (said := truth.get(row.slide_id)) is None:
            continue
        word = said.label or ("event" if said.event else "no event")
        rows.append(replace(row, label=word, annotation_path=None))
    if not rows:
        raise TrainingError(
            "the cohort",
            "says nothing of any slide that has features",
            "fill in the column that is to be learnt",
        )
    return rows


def assign_head_splits(
    rows: Sequence[ManifestRow], seed: int, *, with_test: bool = True
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Splits of slides, patient by patient; those that the table gives are kept.

    Without ``with_test`` nobody is kept for testing: another cohort is tested on.
    """
    manifest = Manifest(rows=tuple(rows))
    assigned = (
        assign_splits(manifest, seed=seed)
        if with_test
        else assign_splits(manifest, DEVELOPMENT_FRACTIONS, seed)
    )
    return {r.slide_id: r.split or "train" for r in assigned.rows}, assigned.notes


def _some(slide_ids: Sequence[str]) -> str:
    return ", ".join(slide_ids[:5]) + (", ..." if len(slide_ids) > 5 else "")
