"""One spelling for each patient and each label of a cohort, and what is to be said about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.cohort.cells import is_empty_word
from pathology_scaat.cohort.retyped import in_lines
from pathology_scaat.errors import ManifestError
from pathology_scaat.system.look_alikes import look_alike_notes, look_key
from pathology_scaat.system.names import name_key, normal_name, one_spelling, respelled

if TYPE_CHECKING:
    from pathology_scaat.cohort.manifest import ManifestRow

_WORDS_TOLD = {"label": "label", "patient_id": "patient"}
"""Columns where a word like ``None`` may have been meant as a name."""


def in_one_spelling(
    rows: Sequence[ManifestRow], lines: Sequence[int]
) -> tuple[list[ManifestRow], tuple[str, ...]]:
    """The rows with one spelling for each patient and label: the first one in the table.

    Case, runs of blanks and the composition of accents do not count. Returns as notes what
    was respelled, and labels that look like one label. Notes are kept beside results, so that
    they name lines of the table, and neither patients, slides nor files.
    """
    patients = one_spelling(row.patient_id for row in rows)
    labels = one_spelling(row.label for row in rows if row.label)
    looks: dict[str, list[str]] = {}
    for key, spelling in patients.items():
        looks.setdefault(look_key(spelling), []).append(key)
    notes: list[str] = []
    others: dict[str, list[int]] = {}
    for row, line in zip(rows, lines, strict=True):
        key = name_key(row.patient_id)
        if normal_name(row.patient_id) != patients[key]:
            others.setdefault(key, []).append(line)
    notes += [
        f"the patient_id of {in_lines(several)} is that of an earlier line in another "
        "spelling: they are one patient"
        for several in others.values()
    ]
    notes += _look_alike_patients(rows, lines, [keys for keys in looks.values() if len(keys) > 1])
    for spelling, count in respelled((row.label for row in rows if row.label), labels).items():
        notes.append(
            f"label '{spelling[:60]}' ({_rows(count)}) is '{labels[name_key(spelling)][:60]}' "
            "in another spelling: they are one class"
        )
    notes += look_alike_notes("labels", "class", list(labels.values()))
    changed = [
        replace(
            row,
            patient_id=patients[name_key(row.patient_id)],
            label=labels[name_key(row.label)] if row.label else None,
        )
        for row in rows
    ]
    return changed, tuple(notes)


def _look_alike_patients(
    rows: Sequence[ManifestRow], lines: Sequence[int], groups: Sequence[Sequence[str]]
) -> list[str]:
    """Sentences on patients whose ids look alike: one of them may be trained and tested on."""
    if not groups:
        return []
    of_key: dict[str, list[int]] = {}
    for row, line in zip(rows, lines, strict=True):
        of_key.setdefault(name_key(row.patient_id), []).append(line)
    return [
        f"the patient_id of {in_lines(of_key[first])} and of "
        f"{in_lines([line for key in others for line in of_key[key]])} look alike: they count as "
        f"{1 + len(others)} patients; if they are one, write them alike"
        for first, *others in groups
    ]


def empty_word_notes(cells: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """A sentence for each word (``None``, ``NA``) that was read as "no label" or "no patient"."""
    found: Counter[tuple[str, str]] = Counter()
    for row in cells:
        for column in _WORDS_TOLD:
            text = row.get(column, "")
            if text and is_empty_word(text):
                found[column, text] += 1
    return tuple(
        f"{_rows(count)} with the {_WORDS_TOLD[column]} '{text}' counted as having no "
        f"{_WORDS_TOLD[column]}; if it is a name, write it otherwise"
        for (column, text), count in found.items()
    )


def shared_annotation_notes(rows: Sequence[ManifestRow], lines: Sequence[int]) -> tuple[str, ...]:
    """A sentence for each annotation file that is given for several slides."""
    found: dict[Path, list[int]] = {}
    for row, line in zip(rows, lines, strict=True):
        if row.annotation_path:
            found.setdefault(row.annotation_path, []).append(line)
    return tuple(
        f"{in_lines(several)} give one annotation file for {len(several)} slides"
        for several in found.values()
        if len(several) > 1
    )


def refuse_divided_patients(rows: Sequence[ManifestRow], subject: str) -> None:
    """Refuse a cohort in which a patient is in two splits, or in two folds.

    Raises
    ------
    ManifestError
        Naming the first such patient.
    """
    splits: list[tuple[str, object]] = [(row.patient_id, row.split) for row in rows]
    folds: list[tuple[str, object]] = [(row.patient_id, row.fold) for row in rows]
    for what, values in (("split", splits), ("fold", folds)):
        found: dict[str, set[object]] = {}
        for patient, value in values:
            if value is not None:
                found.setdefault(name_key(patient), set()).add(value)
        divided = sorted(key for key, several in found.items() if len(several) > 1)
        if divided:
            spellings = dict.fromkeys(p for p, _ in values if name_key(p) == divided[0])
            named = "' or '".join(spelling[:60] for spelling in spellings)
            others = f" (and {len(divided) - 1} more)" if len(divided) > 1 else ""
            raise ManifestError(
                subject,
                f"has patient '{named}'{others} in more than one {what}",
                f"put all slides of a patient into one {what}",
            )


def _rows(count: int) -> str:
    return f"{count} {'row' if count == 1 else 'rows'}"
