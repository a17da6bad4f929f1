"""CPU time of explaining a patch by each attribution method, beside the gradient's.

The default network (random weights, folded as runs have it) on patches of 256 px, 16 at a time, one
thread; methods take turns, so that what else the machine does falls on all of them. ::

    python benchmarks/method_cost.py --out benchmarks/results/method-cost.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time

import numpy as np
import torch
from precision import machine

from pathology_scaat.saliency.arithmetic import ready_to_explain
from pathology_scaat.saliency.attribution import attribute_with_logits
from pathology_scaat.training.backbones import Classifier
from pathology_scaat.training.small_cnn import SmallNet

SIDE_PX = 256
BATCH = 16
METHODS = ("gradient", "fused-cam", "grad-cam", "gradient-blurred", "lrp", "smoothgrad")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Classifier(SmallNet(2), (0.5,) * 3, (0.25,) * 3).eval()
    ready = ready_to_explain(model, SIDE_PX, "float32")
    images = torch.rand(BATCH, 3, SIDE_PX, SIDE_PX).contiguous(memory_format=torch.channels_last)
    took: dict[str, list[float]] = {method: [] for method in METHODS}
    for repeat in range(given.repeats + 1):
        for method in METHODS:
            begun = process_time()
            attribute_with_logits(ready, images, 1, method)
            if repeat:  # the first one warms up
                took[method].append((process_time() - begun) / BATCH)
    gradient = np.array(took["gradient"])
    found = {
        method: {
            "cpu_ms_a_patch": round(1000 * float(np.median(values)), 2),
            "of_gradient": round(float(np.median(np.array(values) / gradient)), 3),
        }
        for method, values in took.items()
    }
    result = {"machine": machine(), "repeats": given.repeats, "methods": found}
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
