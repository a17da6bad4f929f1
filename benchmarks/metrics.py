"""How long the full set of explanation metrics takes on many patches, part by part.

    python benchmarks/metrics.py --images 10000 --side 96 --out benchmarks/results/metrics.json

The default protocol and network, synthetic patches with masks drawn from a few thousand; the
weights are random, since time does not depend on what was learnt. Every processor core is used.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "evidence"))

from planted import make_patches

from pathology_scaat.artifacts.atomic import write_json
from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.evaluation.measure import measure_model
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.training.small_cnn import SmallNet

DRAWN = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--referees", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    drawn = make_patches(20, DRAWN // 20, 0, size=args.side)
    chosen = np.random.default_rng(0).integers(0, DRAWN, args.images)
    data = EvaluationSet(
        drawn.images[chosen],
        drawn.labels[chosen],
        drawn.patients[chosen],
        masks=drawn.masks[chosen],
    )
    torch.manual_seed(0)
    device = torch.device(args.device)
    models = [SmallNet(2).to(device).eval() for _ in range(1 + args.referees)]
    begun: dict[str, float] = {}
    last: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        begun.setdefault(what, perf_counter())
        last[what] = perf_counter()

    begin = perf_counter()
    measure_model(
        models[0],
        data,
        ProtocolConfig(method="gradient"),
        referees=models[1:],
        device=device,
        progress=progress,
    )
    report = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": args.images,
        "side_px": args.side,
        "referees": args.referees,
        "seconds": round(perf_counter() - begin, 1),
        "from_first_to_last_report_s": {k: round(last[k] - begun[k], 1) for k in begun},
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(report, indent=1))
    if args.out:
        write_json(args.out, report)


if __name__ == "__main__":
    main()
