"""Performance by a column of the manifest: does the model hold at every site, on every scanner?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pathology_scaat.errors import ManifestError
from pathology_scaat.evaluation.performance.levels import Level, measure_level
from pathology_scaat.evaluation.performance.predictions import Prediction

MOST_GROUPS = 20
NOT_GIVEN = "(not given)"
MIXED = "(several)"
"""Patients whose slides have different values."""
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


def measure_subgroups(
    slides: Sequence[Prediction],
    patients: Sequence[Prediction],
    columns: Mapping[str, Mapping[str, str]],
    class_names: Sequence[str],
    positive: str,
    *,
    prevalence: float | None = None,
    seed: int = 0,
) -> tuple[Subgroup, ...]:
    """The evaluated patients by each value of each column, with intervals of their own.

    Parameters
    ----------
    slides, patients : sequence of Prediction
        Those that performance is measured on.
    columns : mapping of column to (mapping of slide id to value)
    class_names, positive, prevalence, seed
        As for the whole.

    Raises
    ------
    ManifestError
        If a column has more than :data:`MOST_GROUPS` values.
    """
    found = []
    for column, value_of in columns.items():
        of_patient: dict[str, set[str]] = {}
        n_slides: dict[str, int] = {}
        for row in slides:
            value = value_of.get(row.slide_id) or NOT_GIVEN
            of_patient.setdefault(row.patient_id, set()).add(value)
        group = {p: next(iter(v)) if len(v) == 1 else MIXED for p, v in of_patient.items()}
        for row in slides:
            mine = group[row.patient_id]
            n_slides[mine] = n_slides.get(mine, 0) + 1
        if len(n_slides) > MOST_GROUPS:
            raise ManifestError(
                f"--subgroups {column}",
                f"has {len(n_slides)} values among the evaluated patients",
                f"name a column of at most {MOST_GROUPS}",
            )
        for value in sorted(n_slides):
            rows = [p for p in patients if group.get(p.patient_id) == value]
            level = measure_level(rows, class_names, positive, prevalence=prevalence, seed=seed)
            counts = {name: sum(p.label == name for p in rows) for name in class_names}
            found.append(Subgroup(column, value, len(rows), n_slides[value], counts, level))
    return tuple(found)


def subgroup_lines(groups: Sequence[Subgroup]) -> list[str]:
    """The part of ``performance.md`` about subgroups."""
    lines: list[str] = []
    for column in dict.fromkeys(g.column for g in groups):
        mine = [g for g in groups if g.column == column]
        lines += [
            f"## By {column} (patients)", "",
            f"| {column} | patients (by class) | AUROC | sensitivity | specificity |",
            "|---|---|---|---|---|",
        ]  # fmt: skip
        for g in mine:
            counts_text = ", ".join(f"{name} {n}" for name, n in g.counts.items())
            cells = [
                "not measurable" if g.patient is None or key not in g.patient.estimates
                else g.patient.estimates[key].text()
                for key in SHOWN
            ]  # fmt: skip
            lines.append(
                f"| {_cell(g.value)} | {g.n_patients} ({counts_text}) | {' | '.join(cells)} |"
            )
        lines += [
            "",
            "Each at the threshold of all. Groups were not compared by a test: intervals of small "
            "groups are wide, and of several groups one is the lowest by chance.",
            "",
        ]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
