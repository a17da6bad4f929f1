"""Performance as files: JSON, CSV, Markdown and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from pathology_scaat.artifacts.atomic import write_text_if_changed
from pathology_scaat.artifacts.checksums import checked_json_text
from pathology_scaat.artifacts.table_cells import safe_cell
from pathology_scaat.evaluation.performance.bootstrap import MIN_PATIENTS, N_RESAMPLES, Estimate
from pathology_scaat.evaluation.performance.conformal import abstention_lines
from pathology_scaat.evaluation.performance.headings import heading, threshold_words
from pathology_scaat.evaluation.performance.levels import Level
from pathology_scaat.evaluation.performance.report import Performance
from pathology_scaat.evaluation.performance.subgroups import few_lines, subgroup_lines
from pathology_scaat.evaluation.verdicts import count
from pathology_scaat.system.markdown import cell, without_tags
from pathology_scaat.system.rounding import decimals, significant
from pathology_scaat.training.bundle_quality import read_first, read_first_marks

STEMS = ("performance", "performance_external")
"""Names of an evaluation's files: the only one or that by folds, and that of an external cohort
beside the latter."""
PERFORMANCE_NAME = f"{STEMS[0]}.json"


def performance_files(stem: str) -> tuple[str, ...]:
    """Files of an evaluation."""
    return (*(f"{stem}.{kind}" for kind in ("json", "csv", "md")),
            f"{stem}_patients.svg", f"{stem}_slides.svg")  # fmt: skip


ONE_CLASS_FOLD = "not measurable: {unit} of one class"
LOOKS = (
    "- These cases were looked at {n} time(s) before, with other predictions: figures that were "
    "chosen among several looks are optimistic."
)


def write_performance(folder: Path, performance: Performance, stem: str = STEMS[0]) -> None:
    """Write JSON (with its checksum), CSV, Markdown, and a figure each of patients and slides."""
    from pathology_scaat.evaluation.performance.figures import write_figure

    changed = write_text_if_changed(
        folder / f"{stem}.json", checked_json_text(performance.as_dict())
    )
    write_text_if_changed(folder / f"{stem}.csv", csv_text(performance))
    write_text_if_changed(folder / f"{stem}.md", markdown(performance))
    for unit, level, rows in (
        ("patients", performance.patient, performance.patient_rows),
        ("slides", performance.slide, performance.slide_rows),
    ):
        path = folder / f"{stem}_{unit}.svg"
        if path.exists() and not changed:
            continue
        write_figure(
            path,
            rows,
            level,
            performance.class_names,
            performance.positive_class,
            "\n".join(
                (
                    f"{level.n} {unit}: {performance.evaluated_on}",
                    *read_first_marks(performance.notes),
                )
            ),
        )


def remove_performance(folder: Path, stem: str = STEMS[0]) -> None:
    """Take away what an earlier run measured: it is not of these predictions."""
    for name in performance_files(stem):
        (folder / name).unlink(missing_ok=True)


def _rows(performance: Performance) -> list[tuple[str, str, str, Estimate, int]]:
    found = []
    for name, level in (("patient", performance.patient), ("slide", performance.slide)):
        found += [(name, "all", key, e, level.n) for key, e in level.estimates.items()]
    for fold, counts in performance.fold_counts.items():
        own = performance.folds.get(fold)
        found += _rows_of("slide", str(fold), own, sum(counts.values()))
        if (of_patients := performance.fold_patients.get(fold)) is not None:
            found += _rows_of("patient", str(fold), of_patients, of_patients.n)
    for group in performance.subgroups:
        unit = f"patient, {group.column}={group.value}"
        found += _rows_of(unit, "all", group.patient, sum(group.counts.values()))
    return found


def _rows_of(
    unit: str, fold: str, level: Level | None, n: int
) -> list[tuple[str, str, str, Estimate, int]]:
    """Rows of a part of the cases; of one class alone a row that has no value."""
    if level is None:
        return [(unit, fold, "auroc", Estimate(None), n)]
    return [(unit, fold, key, e, level.n) for key, e in level.estimates.items()]


def csv_text(performance: Performance) -> str:
    return estimates_csv(_rows(performance))


def estimates_csv(rows: Iterable[tuple[str, str, str, Estimate, int]]) -> str:
    """Measures as CSV: unit, fold, name, estimate and number of cases of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["unit", "fold", "measure", "value", "low_95", "high_95", "n"])

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.6g}"

    for unit, fold, key, estimate, n in rows:
        writer.writerow(
            [
                safe_cell(unit),
                fold,
                key,
                shown(estimate.value),
                shown(estimate.low),
                shown(estimate.high),
                n,
            ]
        )
    return text.getvalue()


def warning_lines(notes: Sequence[str]) -> list[str]:
    """Lines that stand before all figures: what of the notes is to be read first."""
    return [line for note in read_first(notes) for line in (f"> **{note}**", "")]


def note_lines(notes: Sequence[str]) -> list[str]:
    """Lines of the other notes, below the figures."""
    first = read_first(notes)
    return [f"- {note}" for note in notes if note not in first]


def markdown(performance: Performance) -> str:
    p = performance
    lines = [
        "# Performance",
        "",
        *warning_lines(p.notes),
        f"On {p.evaluated_on}: {count(p.slide.n, 'slide', 'slides')} of "
        f"{count(p.patient.n, 'patient', 'patients')} (patients of each class: "
        f"{', '.join(f'{name} {n}' for name, n in p.patient.counts.items())}). "
        f"{_positive_words(p)}",
        "",
        "| measure | patients | slides |",
        "|---|---|---|",
    ]
    for key, estimate in p.patient.estimates.items():
        called = cell(heading(key, len(p.class_names)))
        if key in ("ppv", "npv"):
            called += f" at a prevalence of {significant(p.patient.prevalence or 0.0, 3)}"
        lines.append(f"| {called} | {estimate.text()} | {p.slide.estimates[key].text()} |")
    lines += [
        "",
        f"In brackets: 95 % intervals from {N_RESAMPLES} bootstrap samples of patients; none with "
        f"fewer than {MIN_PATIENTS} patients of a class, or where all samples agree.",
        "",
        "## Confusion (patients)",
        "",
        "| truth | " + " | ".join(f"predicted {cell(n)}" for n in p.class_names) + " |",
        "|---|" + "---|" * len(p.class_names),
        *(
            " | ".join([f"| {cell(true)}", *(str(row[guess]) for guess in p.class_names)]) + " |"
            for true, row in p.patient.confusion.items()
        ),
        "",
    ]  # fmt: skip
    if p.fold_counts:
        lines += _fold_lines(p)
    lines += subgroup_lines(p.subgroups, len(p.class_names))
    lines += abstention_lines(p.abstention)
    lines += ["## How", "", f"- Slides: {p.how.get('rule', '')}; {p.how.get('calibration', '')}."]
    lines.append(f"- Patients: {p.patient_rule}.")
    lines += _threshold_lines(p)
    lines += note_lines(p.notes)
    if p.tests_before:
        lines.append(LOOKS.format(n=p.tests_before))
    return without_tags("\n".join(lines) + "\n")


def _positive_words(p: Performance) -> str:
    """Which class the measures speak of; of several classes the figures alone speak of one."""
    if len(p.class_names) == 2:
        return f"Positive class: {p.positive_class}."
    return f"Curves in the figures are of {p.positive_class} against the other classes."


def _threshold_lines(p: Performance) -> list[str]:
    """At which probability these cases are called positive, and by what that was chosen."""
    judged = {row.fold for row in p.slide_rows}
    lines = []
    for unit, found in p.thresholds.items():
        told = [threshold_words(v) for v in found.get("values", ()) if v["fold"] in judged]
        if told:
            lines.append(f"- Threshold of {unit}s, {found['rule']}: {'; '.join(told)}.")
    return lines


def _fold_lines(p: Performance) -> list[str]:
    """The part of ``performance.md`` about folds: of patients, and of slides."""

    def patients_of(fold: int) -> dict[str, int]:
        labels = [row.label for row in p.patient_rows if row.fold == fold]
        return {name: labels.count(name) for name in p.class_names}

    lines = []
    for unit, levels in (("patients", p.fold_patients), ("slides", p.folds)):
        auroc = heading("auroc", len(p.class_names))
        lines += [
            f"## Folds ({unit})",
            "",
            f"| fold | {unit} (by class) | {auroc} |",
            "|---|---|---|",
        ]
        for fold, slides in p.fold_counts.items():
            level = levels.get(fold)
            counts = slides if unit == "slides" else patients_of(fold)
            told = ", ".join(f"{cell(name)} {n}" for name, n in counts.items())
            value = (
                ONE_CLASS_FOLD.format(unit=unit)
                if level is None
                else level.estimates["auroc"].text()
            )
            lines.append(f"| {fold} | {sum(counts.values())} ({told}) | {value} |")
        lines += ["", *few_lines((f"fold {n}", levels.get(n)) for n in p.fold_counts)]
        if unit == "patients" and (mean := p.mean_of_folds) is not None:
            found = mean["auroc"]
            lines += [
                f"Mean of {mean['n_folds']} folds: {decimals(found['mean'])}, standard deviation "
                f"{decimals(found['standard_deviation'])}. Each fold counts alike, however many "
                "patients it holds; the table at the top judges all patients together.",
                "",
            ]
    return lines
