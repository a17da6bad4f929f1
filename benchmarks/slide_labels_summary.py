"""What the runs of ``benchmarks/slide_labels.py`` say together: means, intervals, contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pathology_scaat.metrics.functional.statistics import Interval, clustered_auc, clustered_mean

MAPS = ("evidence", "saliency", "probability")
GOAL_AUC, GOAL_TO_COPY, GOAL_TO_ANNOTATED, GOAL_LOSS = 0.95, 2.0, 0.65, 0.01


def as_json(interval: Interval, **more: Any) -> dict[str, Any]:
    """An interval for the file of results, with what stands beside it."""
    parts = {k: round(v, 4) if isinstance(v, float) else v for k, v in interval.as_dict().items()}
    return {**parts, **more}


def runs_of(runs: Sequence[dict[str, Any]], arm: str) -> dict[int, dict[str, Any]]:
    return {r["seed"]: r for r in runs if r["arm"] == arm}


def shared_seeds(runs: Sequence[dict[str, Any]], *arms: str) -> list[int]:
    return sorted(set.intersection(*(set(runs_of(runs, arm)) for arm in arms)))


def precision(runs: Sequence[dict[str, Any]], arm: str, seeds: Sequence[int], name: str):
    mine = runs_of(runs, arm)
    return np.array([[m[name] for m in mine[s]["maps"].values()] for s in seeds])


def summary(
    runs: Sequence[dict[str, Any]], truth: dict[str, bool], arms: Sequence[str]
) -> dict[str, Any]:
    """Means over seeds, intervals over seeds and patients, and whether each goal is met."""
    result: dict[str, Any] = {"arms": {}, "contrasts": {}}
    slides = list(truth)
    positive = np.array([truth[s] for s in slides])

    def probabilities(arm: str, seeds: Sequence[int]) -> np.ndarray:
        return np.array([[runs_of(runs, arm)[s]["probability"][i] for i in slides] for s in seeds])

    for arm in arms:
        seeds = shared_seeds(runs, arm)
        if not seeds:
            continue
        scores = probabilities(arm, seeds)
        by_seed = [clustered_auc(row, positive, slides).value for row in scores]
        row = {"auroc": as_json(clustered_auc(scores, positive, slides),
                             by_seed=[round(v, 4) for v in by_seed])}  # fmt: skip
        for name in (*MAPS, "nuclear_stain", "chance"):
            table = precision(runs, arm, seeds, name)
            row[name] = as_json(
                clustered_mean(table, np.arange(table.shape[1])),
                by_seed=[round(float(v), 4) for v in table.mean(axis=1)],
            )
        mine = list(runs_of(runs, arm).values())
        row["train_cpu_s"] = round(float(np.mean([r["train_cpu_s"] for r in mine])), 1)
        row["explain_ms_a_patch"] = round(
            float(np.mean([r["explain_ms_a_patch"] for r in mine])), 2
        )
        result["arms"][arm] = row

    def contrast(
        name: str, arm: str, other: str, factor: float, goal: str, maps: Sequence[str] = MAPS[:2]
    ) -> None:
        """Whether one arm's maps are ``factor`` times another's: mean of A - factor * B."""
        seeds = shared_seeds(runs, arm, other)
        for which in maps if seeds else ():
            a, b = (precision(runs, one, seeds, which) for one in (arm, other))
            ratios = a.mean(axis=1) / b.mean(axis=1)
            result["contrasts"][f"{name}: {which}"] = as_json(
                clustered_mean(a - factor * b, np.arange(a.shape[1])),
                ratio=round(float(a.mean() / b.mean()), 3),
                ratio_by_seed=[round(float(r), 3) for r in ratios],
                seeds_at_goal=int((ratios >= factor).sum()),
                goal=goal,
            )

    contrast("bag-scaat against copying", "bag-scaat", "copy-scaat", GOAL_TO_COPY,
             "at least 2 times: the interval of A - 2 B lies above 0")  # fmt: skip
    contrast("bag-scaat minus copying", "bag-scaat", "copy-scaat", 1.0,
             "the interval of A - B lies above 0", MAPS)  # fmt: skip
    contrast("bag-plain against copying", "bag-plain", "copy-scaat", GOAL_TO_COPY,
             "at least 2 times")  # fmt: skip
    contrast("bag-scaat against annotated", "bag-scaat", "annotated-scaat", GOAL_TO_ANNOTATED,
             "at least .65 times: the interval of A - .65 B lies above 0")  # fmt: skip
    contrast("bag-scaat against bag-plain", "bag-scaat", "bag-plain", 1.0,
             "the interval of A - B lies above 0")  # fmt: skip
    for other in ("bag-plain", "copy-scaat"):
        seeds = shared_seeds(runs, "bag-scaat", other)
        if seeds:
            a, b = probabilities("bag-scaat", seeds), probabilities(other, seeds)
            result["contrasts"][f"AUROC, bag-scaat - {other}"] = as_json(
                clustered_auc(a, positive, slides, minus=b),
                goal="loses at most .01: the interval lies above -.01",
            )
    return result


def table(found: dict[str, Any]) -> str:
    """The summary as Markdown."""

    def text(value: dict[str, Any]) -> str:
        if value["low"] is None:
            return f"{value['value']:.3f}"
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

    heads = ("auroc", *MAPS, "nuclear_stain", "chance")
    lines = [
        "| arm | " + " | ".join(heads) + " | training, CPU s | explaining, ms a patch |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for arm, row in found["arms"].items():
        cells = " | ".join(text(row[h]) for h in heads)
        lines.append(f"| {arm} | {cells} | {row['train_cpu_s']} | {row['explain_ms_a_patch']} |")
    lines += ["", "| contrast | value (95 %) | ratio | by seed |", "|---|---|---|---|"]
    for name, value in found["contrasts"].items():
        lines.append(
            f"| {name} | {text(value)} | {value.get('ratio', '')} | "
            f"{', '.join(map(str, value.get('ratio_by_seed', [])))} |"
        )
    return "\n".join(lines)
