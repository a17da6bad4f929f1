"""What a command imports before it does anything: CPU seconds, and which large libraries.

python benchmarks/startup.py --json benchmarks/results/startup.json [--rounds 3]

Each step's module is imported in a process of its own, as its command does it; the least of the
rounds counts. ``torch`` alone stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STEPS = (
    "tile", "train", "explain", "predict", "stitch", "export", "run", "plan_run", "finetune",
    "report", "verify", "evaluate",
)  # fmt: skip
LARGE = ("torch", "zarr", "scipy", "numba", "cv2", "matplotlib", "distributed", "tensorstore")
CODE = """
import sys, time, json
began = time.process_time()
import {module}
took = time.process_time() - began
print(json.dumps([took, [m for m in {large!r} if m in sys.modules]]))
"""


def measured(module: str, rounds: int) -> dict[str, Any]:
    """CPU seconds of an import, and the large libraries that it brings."""
    code = CODE.format(module=module, large=LARGE)
    found = [
        json.loads(
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        )
        for _ in range(rounds)
    ]
    return {"cpu_s": round(min(f[0] for f in found), 2), "large": found[0][1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    modules = {"torch alone": "torch", "cli": "pathology_scaat.cli"}
    modules |= {step: f"pathology_scaat.pipeline.{step}" for step in STEPS}
    result = {
        "load_average_before": round(os.getloadavg()[0], 1),
        "imports": {name: measured(module, given.rounds) for name, module in modules.items()},
    }
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
