"""Quality against what training costs: one picture of a report's JSON.

    python benchmarks/evidence/cost_figure.py results/cpu-method/cnn-narrow-hard.json --out FILE.png

Each arm is a point: processor time of its training over plain's, and its gain over plain training
in the primary measure, with the interval over seeds and patients. A second panel has the AUC.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHOWN = {
    "plain": "plain", "plain-1.5x": "plain, 1.5 x epochs", "plain-2x": "plain, 2 x epochs",
    "scaat-soft-16": "SCAAT from the start", "staged-soft-16": "staged: second half",
    "staged-confidence": "staged, confidence", "finetune-fifth": "fine-tuned, a fifth more",
    "random-mask-soft-16": "random places", "staged-random-16": "random places, second half",
    "sgt": "SGT", "token-hard-16": "by tokens, hard", "staged-token-hard-16": "staged, tokens",
    "token-soft-16": "by tokens, soft",
}  # fmt: skip


def costs(facts: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Processor time of training over that of plain of the same seed: the median over seeds."""
    plain = {one["seed"]: float(one["train_cpu_s"]) for one in facts["plain"]}
    return {
        arm: float(np.median([float(one["train_cpu_s"]) / plain[one["seed"]] for one in found
                              if one["seed"] in plain]))
        for arm, found in facts.items()
    }  # fmt: skip


def points(content: dict[str, Any]) -> list[tuple[str, float, dict[str, float], dict[str, float]]]:
    """Arm, cost, gain in the primary measure and in the AUC, each with its interval."""
    comparison, cost = content["comparison"], costs(content["facts"])
    rows = {
        row["arm"]: row["gain"] for row in comparison["rows"]
        if row["measure"] == comparison["primary"] and row["subset"] == "all"
    }  # fmt: skip
    none = {"value": 0.0, "low": 0.0, "high": 0.0}
    return [
        (arm["arm"], cost[arm["arm"]], rows[arm["arm"]] or none, arm["auc_difference"] or none)
        for arm in comparison["arms"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    content = json.loads(args.json.read_text(encoding="utf-8"))
    found = sorted(points(content), key=lambda point: point[1])
    n_seeds = content["comparison"]["arms"][0]["n_seeds"]
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    primary = content["comparison"]["primary"].replace("_", " ")
    for axis, column, title in ((axes[0], 2, f"{primary}: gain over plain"),
                                (axes[1], 3, "AUC: gain over plain")):  # fmt: skip
        apart = -1.0
        for number, point in enumerate(found):
            arm, cost, gain = point[0], point[1], point[column]
            apart = max(cost, apart + 0.06)  # arms of one cost stand beside one another
            colour, marker = f"C{number % 10}", "oD"[number // 10]
            low, high = gain["low"], gain["high"]
            if low is not None and not math.isnan(low):
                axis.plot([apart, apart], [low, high], color=colour, lw=2)
            label = f"{SHOWN.get(arm, arm)} ({cost:.2f})"
            axis.plot(apart, gain["value"], marker, color=colour, ms=8, label=label)
        axis.axhline(0, color="black", lw=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("cost: processor time of training, plain = 1")
        axis.grid(color="#dddddd")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(
        f"{args.json.stem}: {n_seeds} seeds; 95 % intervals over seeds and patients, "
        "not corrected for the number of arms",
        fontsize=10,
    )
    figure.savefig(args.out, dpi=100)


if __name__ == "__main__":
    main()
