"""A comparison as JSON, as Markdown and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.artifacts.atomic import atomic_path, write_json
from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_names import COMPARISON_SUMS
from pathology_scaat.evaluation.comparison import Comparison
from pathology_scaat.metrics.functional.statistics import MIN_PATIENTS, MIN_SEEDS, Interval
from pathology_scaat.system.markdown import cell, without_tags
from pathology_scaat.system.rounding import decimals
from pathology_scaat.training.bundle_quality import NOTHING_LEARNT, OF_PAINTED_SLIDES

TABLE_MEASURES = (
    "pixel_ap", "mosaic_ap", "srg/mean/probability", "srg/blur/probability",
    "srg/noisy-linear/probability", "srg/swap/probability", "srg/blur/margin",
    "referee_srg/blur", "stability_spearman", "sensitivity", "infidelity", "gini",
)  # fmt: skip

SMALL_P = 1e-6
"""Smaller p-values are given as below it: so far down they rest on the shape of a tail."""


def _number(interval: Interval | None, signed: bool = False) -> str:
    if interval is None or math.isnan(interval.value):
        return ""

    def shown(value: float) -> str:
        return f"{value:+.3f}" if signed else decimals(value)

    if math.isnan(interval.low):
        return shown(interval.value)
    return f"{shown(interval.value)} ({shown(interval.low)} to {shown(interval.high)})"


def _p_value(p: float) -> str:
    return f"{p:.2g}" if p >= SMALL_P else "<0.000001"


def _value_table(c: Comparison, measures: Sequence[str], subset: str = "all") -> list[str]:
    """Value of each measure (column) by arm (row), marked where it is better."""
    lines = ["", "| arm | " + " | ".join(f"`{m}`" for m in measures) + " |"]
    lines.append("|---|" + "---|" * len(measures))
    for arm in c.arms:
        fields = []
        for measure in measures:
            row = c.row(arm.arm, measure, subset)
            if row is None or math.isnan(row.value.value):
                fields.append("")
                continue
            mark = " **▲**" if row.improves else ""
            if row.improves is None and row.shift == 1:
                mark = " △"
            fields.append(f"{decimals(row.value.value)}{mark}")
        lines.append(f"| {cell(arm.arm)} | " + " | ".join(fields) + " |")
    return lines


def _intervals_in_words(c: Comparison) -> str:
    words = f"Intervals 95 %, over training seeds and {c.unit}, for the mean over seeds."
    most = max(arm.n_seeds for arm in c.arms)
    if any(arm.n_seeds > 1 and math.isnan(arm.auc.seed_se) for arm in c.arms):
        words += (
            f" **Those of the AUC are over {c.unit} alone, for these seeds only**: the AUC of each "
            "seed was not kept."
        )
    if most == 1:
        words = f"Intervals 95 %, over {c.unit}: **they hold for these trained models alone.**"
    if most < MIN_SEEDS:
        words += (
            f" **No verdicts: they need at least {MIN_SEEDS} seeds an arm; what is said here is "
            "said of these seeds only.**"
        )
    return words


def comparison_markdown(comparison: Comparison) -> str:
    """Tables: prediction and verdict by arm, then each measure's value and gain."""
    c = comparison
    measured = [m for m in TABLE_MEASURES if c.row(c.baseline, m) is not None]
    lines = [
        f"## {c.data}: {c.n_images} images of {c.n_groups} {c.unit} "
        f"({c.n_all_correct} right in all arms and seeds)",
        "",
        *(line for said in c.read_first for line in (f"> **{said}**", "")),
        f"Primary measure: `{c.primary}`. Baseline: {c.baseline}. AUC may be lower by "
        f"{c.auc_margin:g} at most (lower end of the interval). p-values of the primary measure "
        "are corrected for the number of arms (Holm).",
        "",
        _intervals_in_words(c),
        "",
        *([c.label_note, ""] if c.label_note else []),
        f"| arm | seeds | AUC | AUC − {cell(c.baseline)} | gain in `{c.primary}` | p | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in c.arms:
        row = c.row(arm.arm, c.primary)
        gain = _number(row.gain, signed=True) if row else ""
        p = _p_value(row.p_holm) if row and row.p_holm is not None else ""
        lines.append(
            f"| {cell(arm.arm)} | {arm.n_seeds} | {_number(arm.auc)} | "
            f"{_number(arm.auc_difference, signed=True)} | {gain} | {p} | {arm.verdict} |"
        )
    lines += _value_table(c, measured)
    faithful = [m for m in measured if "srg/" in m]
    if faithful:
        lines += ["", "On images of the positive class alone (elsewhere there is nothing to find):"]
        lines += _value_table(c, faithful, "positive class")
    lines += [
        "",
        "▲: better than the baseline, p below .05 after Holm's correction (primary measure: over "
        "the arms; others: over all measures and arms). "
        f"△: the same, but of fewer than {MIN_SEEDS} seeds, so no verdict.",
        "",
    ]
    return without_tags("\n".join(lines))


def picture_title(comparison: Comparison) -> str:
    """What a picture of a comparison is of, and whether it says anything of other seeds."""
    c = comparison
    title = f"{c.data}: {c.n_images} images, {c.n_groups} {c.unit}"
    if max(arm.n_seeds for arm in c.arms) < MIN_SEEDS:
        title += f"\nNo verdicts: fewer than {MIN_SEEDS} seeds an arm, said of these seeds only"
    if c.n_groups < MIN_PATIENTS:
        title += f"\nNo verdicts: fewer than {MIN_PATIENTS} {c.unit}"
    if any(NOTHING_LEARNT in said for said in c.read_first):
        title += "\nSome of these models have learnt nothing that can be relied on"
    if any(OF_PAINTED_SLIDES in said for said in c.read_first):
        title += "\nThe models learnt from painted slides: nothing here is of tissue"
    return title


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Gain of each arm in AUC and in the primary measure, with intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    c = comparison
    arms = [a for a in c.arms if a.arm != c.baseline][::-1]
    figure = Figure(figsize=(9, 1.5 + 0.4 * max(len(arms), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for y, arm in enumerate(arms):
        row = c.row(arm.arm, c.primary)
        for axis, gain in ((left, arm.auc_difference), (right, row.gain if row else None)):
            if gain is None or math.isnan(gain.value):
                continue
            if not math.isnan(gain.low):
                axis.plot([gain.low, gain.high], [y, y], color="#2166ac", linewidth=3)
            axis.plot(gain.value, y, "o", color="#2166ac", markersize=7)
    left.axvline(-c.auc_margin, color="#b2182b", linestyle="--", linewidth=1)
    for axis in (left, right):
        axis.axvline(0, color="black", linewidth=1)
        axis.locator_params(axis="x", nbins=5)  # more would run into each other
    left.set_yticks(range(len(arms)), [a.arm for a in arms], fontsize=8)
    left.set_ylim(-0.7, max(len(arms), 1) - 0.3)
    left.set_xlabel(f"AUC − {c.baseline} (red: margin)")
    right.set_xlabel(f"{c.primary} − {c.baseline}")
    figure.suptitle(picture_title(c), fontsize=10)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, Path, Path]:
    """Write ``comparison.json``, ``.md``, ``.png`` and their checksums; the paths of the three."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"comparison.{suffix}" for suffix in ("json", "md", "png"))
    (folder / COMPARISON_SUMS).unlink(missing_ok=True)
    write_json(paths[0], comparison.as_dict())
    with atomic_path(paths[1]) as partial:
        partial.write_text(comparison_markdown(comparison), encoding="utf-8")
    draw_comparison(comparison, paths[2])
    write_sums(folder, COMPARISON_SUMS, [path.name for path in paths])
    return paths[0], paths[1], paths[2]
