"""The classes of a cohort: what its annotations and slide labels name, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pathology_scaat.annotations import read_annotation_file
from pathology_scaat.annotations.classes import FoundClasses, merge_class_names
from pathology_scaat.cohort.manifest import ManifestRow
from pathology_scaat.errors import AnnotationError, UsageError
from pathology_scaat.patches.config import TileConfig
from pathology_scaat.system.look_alikes import look_alike_notes
from pathology_scaat.system.names import name_key, shown_names


@dataclass(frozen=True)
class CohortClasses:
    """Class names of a cohort, sorted, and what the user should know of how they were found."""

    names: tuple[str, ...]
    notes: tuple[str, ...]


def find_classes(rows: Sequence[ManifestRow], background_class: str | None = None) -> CohortClasses:
    """Class names that the annotations and slide labels of a cohort use.

    Annotations without a class and QuPath's ignored classes (``Ignore*``) are no classes;
    spellings that differ in case or blanks are one class, written as it is met first; derived
    classes ("Tumor: Positive") count for their base. A slide with an annotation file is
    labelled by it, so that its label names no class.

    Annotation files that cannot be read are passed over here: their slide fails, with the
    reason, when it is tiled.

    Parameters
    ----------
    rows : sequence of ManifestRow
        The cohort.
    background_class : str, optional
        A class that is there in any case: that of the tissue outside the annotations.
    """
    written: list[str] = []
    labels: list[str] = []
    unclassed: dict[str, None] = {}
    for row in rows:
        if row.annotation_path is not None:
            try:
                file = read_annotation_file(row.annotation_path)
            except AnnotationError:
                continue
            written.extend(file.classes)
            unclassed.update(dict.fromkeys(file.names_without_class))
        elif row.label is not None:
            labels.append(row.label)
    if background_class is not None:
        labels.append(background_class)
    found = merge_class_names(written, labels)
    notes = _notes(found)
    if unclassed and not found.names:
        given = ",".join(list(unclassed)[:4])
        notes.append(
            f"no annotation has a class, but some have names ({shown_names(unclassed, 4)}); "
            f"if the names are the classes, give them with --classes, as in --classes '{given}'"
        )
    return CohortClasses(found.names, tuple(notes))


def discover_class_names(rows: Sequence[ManifestRow]) -> tuple[str, ...]:
    """The names of :func:`find_classes` alone."""
    return find_classes(rows).names


def _notes(found: FoundClasses) -> list[str]:
    notes = [
        f"class '{other}' is '{kept}' in another spelling: they are one class"
        for other, kept in found.respelled.items()
    ]
    by_base: dict[str, list[str]] = {}
    for derived, base in found.derived.items():
        by_base.setdefault(base, []).append(derived)
    notes += [
        f"{shown_names(derived)} count as '{base}' (to keep them apart, name them with --classes)"
        for base, derived in by_base.items()
    ]
    return notes + near_notes(found.names)


def near_notes(names: Sequence[str]) -> list[str]:
    """A sentence for each two classes whose names look like one name."""
    return look_alike_notes("classes", "class", names)


def with_class_names(
    config: TileConfig, rows: Sequence[ManifestRow]
) -> tuple[TileConfig, tuple[str, ...]]:
    """The settings with the cohort's classes where they name none; and what is to be reported.

    Raises
    ------
    UsageError
        If a background class is asked for that is none of the classes.
    """
    if config.class_names:
        notes = near_notes(config.class_names)
    else:
        found = find_classes(rows, config.background_class)
        notes = [*found.notes]
        if found.names:
            notes.append(f"classes found: {', '.join(found.names)}")
        config = config.model_copy(update={"class_names": found.names})
    if config.background_class is None:
        return config, tuple(notes)
    key = name_key(config.background_class)
    spelled = next((name for name in config.class_names if name_key(name) == key), None)
    if spelled is None:
        raise UsageError(
            "--background-class",
            f"'{config.background_class}' is none of the classes ({', '.join(config.class_names)})",
            "name one of them",
        )
    if not any(row.annotation_path for row in rows):
        notes.append(
            f"background class '{spelled}' changes nothing: no slide has an annotation file"
        )
    return config.model_copy(update={"background_class": spelled}), tuple(notes)


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts by class as one cell: ``Normal:12;Tumor:30``."""
    return ";".join(f"{name.replace(';', ',')}:{count}" for name, count in counts.items())
