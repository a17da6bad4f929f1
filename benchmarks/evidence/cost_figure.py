"""Quality against what training costs: one picture of the JSON of one report, or of several.

    python benchmarks/evidence/cost_figure.py results/cpu-method/cnn-narrow-hard.json --out FILE.png
    python benchmarks/evidence/cost_figure.py results/gpu-staged/resnet18-*.json --out FILE.png

Each arm is a point: processor time of its training over plain's, and its gain over plain training
in the primary measure, with the interval over seeds and patients. A second row has the AUC. Where
several processes shared a GPU no arm's time was its own: there the cost is counted, in steps of
the price that ``results/training-nvidia-h200.json`` has for each method.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from arms import ARMS
from run import A_CORE

STEP_PRICES = Path(__file__).resolve().parents[1] / "results" / "training-nvidia-h200.json"

SHOWN = {
    "plain": "plain", "plain-1.5x": "plain, 1.5 x epochs", "plain-2x": "plain, 2 x epochs",
    "scaat-soft-16": "SCAAT from the start", "staged-soft-16": "staged: second half",
    "staged-confidence": "staged, confidence", "finetune-fifth": "fine-tuned",
    "random-mask-soft-16": "random places", "staged-random-16": "random places, second half",
    "sgt": "SGT", "token-hard-16": "by tokens, hard", "staged-token-hard-16": "staged, tokens",
    "token-soft-16": "by tokens, soft",
}  # fmt: skip


def counted(arm: str, prices: dict[str, dict[str, float]]) -> float:
    """Cost of an arm in plain trainings, from the price of a step of its method."""
    made = ARMS[arm]
    price = prices[made.method]["wall_multiple"]
    if made.finetune_share:
        return 1 + made.finetune_share * price
    start = float(made.options.get("start", 0.0))
    return made.epochs_factor * (start + (1 - start) * price)


def is_timed(facts: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether each training had a core of its own, so that its time is its cost."""
    machines = {str(one.get("machine", A_CORE)) for found in facts.values() for one in found}
    return all(machine.startswith(A_CORE) for machine in machines)


def costs(facts: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Processor time of training over that of plain of the same seed: the mean over seeds.

    Counted by steps where a GPU trained.
    """
    if not is_timed(facts):
        prices = json.loads(STEP_PRICES.read_text(encoding="utf-8"))["steps"]
        return {arm: counted(arm, prices) for arm in facts}
    plain = {one["seed"]: float(one["train_cpu_s"]) for one in facts["plain"]}
    return {
        arm: float(np.mean([float(one["train_cpu_s"]) / plain[one["seed"]] for one in found
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


def draw(axes: Any, content: dict[str, Any], title: str) -> None:
    """A column: gain in the primary measure above, in the AUC below."""
    found = sorted(points(content), key=lambda point: point[1])
    primary = content["comparison"]["primary"].replace("_", " ").replace(" ap", " AP")
    for axis, column, what in ((axes[0], 2, primary), (axes[1], 3, "AUC")):
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
        axis.set_title(f"{title}: {what}, gain over plain", fontsize=9)
        axis.grid(color="#dddddd")
    timed = is_timed(content["facts"])
    axes[1].set_xlabel(f"cost, plain = 1: {'processor time' if timed else 'by steps'}", fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("json", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in args.json]
    n = len(contents)
    figure, axes = plt.subplots(
        2, n, figsize=(max(7.0, 3.5 * n + 2), 7), layout="constrained", squeeze=False
    )
    for column, (path, content) in enumerate(zip(args.json, contents, strict=True)):
        draw(axes[:, column], content, path.stem)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  fontsize=8)  # fmt: skip
    seeds = {content["comparison"]["arms"][0]["n_seeds"] for content in contents}
    figure.suptitle(
        f"{' or '.join(map(str, sorted(seeds)))} seeds; 95 % intervals over seeds and patients, "
        "not corrected for the number of arms",
        fontsize=10,
    )
    figure.savefig(args.out, dpi=100)


if __name__ == "__main__":
    main()
