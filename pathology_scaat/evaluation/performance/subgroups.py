"""Performance by a column of the manifest: does the model hold at every site, on every scanner?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pathology_scaat.errors import ManifestError
from pathology_scaat.evaluation.performance.headings import heading
from pathology_scaat.evaluation.performance.levels import Level, measure_level
from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.system.markdown import cell

MOST_GROUPS = 20
NOT_GIVEN = "(not given)"
MIXED = "(several)"
"""Patients whose slides have different values."""
NOT_COMPARED = (
    "Groups were not compared by a test: intervals of small groups are wide, and of several groups "
    "one is the lowest by chance."
)
ONE_CLASS = "not measurable: patients of one class"
"""What stands in place of figures that need two."""
SHOWN = ("auroc", "sensitivity", "specificity")


@dataclass(frozen=True)
class Subgroup:
    """Patients of one value of a column.

    Attributes
    ----------
    column, value : str
    n_patients, n_slides : int
    counts : dict of class to int
        Patients of each class.
    patient : Level or None
        None where they are of one class: nothing can be told apart then.
    """

    column: str
    value: str
    n_patients: int
    n_slides: int
    counts: dict[str, int]
    patient: Level | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = {} if self.patient is None else self.patient.as_dict()
        return {
            "n_patients": self.n_patients,
            "n_slides": self.n_slides,
            "counts": self.counts,
            **{k: v for k, v in measured.items() if k not in ("calibration", "decision_curve")},
            "measurable": self.patient is not None,
        }


def patient_groups(
    slides: Iterable[tuple[str, str]], value_of: Mapping[str, str], column: str
) -> dict[str, str]:
    """Value of a column for each patient, of all of its slides; nobody is left out.

    Parameters
    ----------
    slides : iterable of (patient, slide)
    value_of : mapping of slide id to value
    column : str
        For what is refused.

    Raises
    ------
    ManifestError
        If there are more than :data:`MOST_GROUPS` values.
    """
    of_patient: dict[str, set[str]] = {}
    for patient, slide in slides:
        of_patient.setdefault(patient, set()).add(value_of.get(slide) or NOT_GIVEN)
    group = {p: next(iter(v)) if len(v) == 1 else MIXED for p, v in of_patient.items()}
    if (n_values := len(set(group.values()))) > MOST_GROUPS:
        raise ManifestError(
            f"--subgroups {column}",
            f"has {n_values} values among the evaluated patients",
            f"name a column of at most {MOST_GROUPS}",
        )
    return group


def measure_subgroups(
    slides: Sequence[Prediction],
    patients: Sequence[Prediction],
    columns: Mapping[str, Mapping[str, str]],
    class_names: Sequence[str],
    positive: str,
    *,
    prevalence: float | None = None,
    seed: int = 0,
    ordered: bool = False,
) -> tuple[Subgroup, ...]:
    """The evaluated patients by each value of each column, with intervals of their own.

    Parameters
    ----------
    slides, patients : sequence of Prediction
        Those that performance is measured on.
    columns : mapping of column to (mapping of slide id to value)
    class_names, positive, prevalence, seed, ordered
        As for the whole.

    Raises
    ------
    ManifestError
        If a column has more than :data:`MOST_GROUPS` values.
    """
    found = []
    for column, value_of in columns.items():
        group = patient_groups(((r.patient_id, r.slide_id) for r in slides), value_of, column)
        n_slides = Counter(group[row.patient_id] for row in slides)
        for value in sorted(n_slides):
            rows = [p for p in patients if group.get(p.patient_id) == value]
            level = measure_level(
                rows, class_names, positive, prevalence=prevalence, seed=seed, ordered=ordered
            )
            counts = {name: sum(p.label == name for p in rows) for name in class_names}
            found.append(Subgroup(column, value, len(rows), n_slides[value], counts, level))
    return tuple(found)


def subgroup_lines(groups: Sequence[Subgroup], n_classes: int) -> list[str]:
    """The part of ``performance.md`` about subgroups."""
    headings = " | ".join(heading(key, n_classes) for key in SHOWN)
    at = "Groups have no threshold of their own. " if n_classes == 2 else ""
    lines: list[str] = []
    for column in dict.fromkeys(g.column for g in groups):
        mine = [g for g in groups if g.column == column]
        lines += [
            f"## By {column} (patients)", "",
            f"| {cell(column)} | patients (by class) | {headings} |",
            "|---|---|---|---|---|",
        ]  # fmt: skip
        for g in mine:
            counts_text = ", ".join(f"{cell(name)} {n}" for name, n in g.counts.items())
            cells = [
                ONE_CLASS if g.patient is None
                else "not measurable" if key not in g.patient.estimates
                else g.patient.estimates[key].text()
                for key in SHOWN
            ]  # fmt: skip
            lines.append(
                f"| {cell(g.value)} | {g.n_patients} ({counts_text}) | {' | '.join(cells)} |"
            )
        lines += ["", *few_lines((g.value, g.patient) for g in mine)]
        lines += [
            f"{at}{NOT_COMPARED}",
            "",
        ]
    return lines


def few_lines(parts: Iterable[tuple[str, Level | None]]) -> list[str]:
    """Why folds or groups have no intervals, as lines of Markdown."""
    told = [f"{cell(name)}: {one.no_intervals}" for name, one in parts if one and one.no_intervals]
    return [f"No intervals: {'; '.join(told)}.", ""] if told else []
