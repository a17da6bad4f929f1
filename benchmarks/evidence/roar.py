"""Remove and retrain for some arms: accuracy of a new plain model on what the maps left.

    python benchmarks/evidence/roar.py benchmarks/evidence/gpu.yaml --data idc --arms plain scaat-32

Prints and writes ``results/<name>/roar-<network>-<data>.json``: for each arm and order the test
AUC of the same plain learner trained on images without that share of pixels.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from arms import ARMS, Arm
from data import load
from fit import epochs_for, fit, logits_of
from torch import nn

from pathology_scaat.artifacts.atomic import write_json
from pathology_scaat.evaluation.comparison import positive_scores
from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.metrics.functional.roar import remove_relevant
from pathology_scaat.metrics.functional.roc import roc_auc
from pathology_scaat.saliency.attribution import attribution


def removed(
    model: nn.Module, data: EvaluationSet, share: float, order: Any, device: torch.device
) -> EvaluationSet:
    """The data set without the share of pixels that the model's maps put first."""
    colour = torch.from_numpy(data.images.mean((0, 1, 2)) / 255).float()
    kept = []
    for start in range(0, len(data), 128):
        part = slice(start, start + 128)
        pixels = torch.from_numpy(data.images[part]).permute(0, 3, 1, 2).to(device).float() / 255
        # The predicted class: the true one would let the maps tell the label.
        maps = attribution(model, pixels, "predicted")
        left = remove_relevant(pixels, maps, share, order=order, mean_colour=colour, seed=start)
        kept.append((left * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return replace(data, images=np.concatenate(kept))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", default="idc")
    parser.add_argument("--arms", nargs="+", default=["plain", "scaat-32"])
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text())
    device = choose_device(arguments.device)
    bench = load(arguments.data, tuple(config["limits"]))
    network = config["networks"][0]
    epochs = epochs_for(config, len(bench.train))
    options = {"epochs": epochs, "batch": config["batch"], "device": device,
               "learning_rate": config["learning_rate"]}  # fmt: skip
    rows = []
    for seed in arguments.seeds:
        for arm in arguments.arms:
            model = fit(bench.train, network, ARMS[arm], seed=seed, **options).model
            for order in ("most", "least", "random"):
                train = removed(model, bench.train, arguments.share, order, device)
                test = removed(model, bench.test, arguments.share, order, device)
                again = fit(train, network, Arm("plain"), seed=500 + seed, **options).model
                scores = positive_scores(logits_of(again, test, device), test.positive_class)
                auc = roc_auc(scores, test.is_positive)
                rows.append({"arm": arm, "seed": seed, "removed": order, "auc": auc})
                print(rows[-1], flush=True)
    folder = Path(__file__).resolve().parent / "results" / config["name"]
    write_json(
        folder / f"roar-{network}-{arguments.data}.json", {"share": arguments.share, "rows": rows}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
