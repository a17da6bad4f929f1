"""A model applied to one slide, by this checkout and by an earlier one, one after the other.

python benchmarks/earlier.py --slide SLIDE.svs --model MODEL --earlier OTHER/.venv/bin/scaat
    --scratch D --json benchmarks/results/earlier.json

``MODEL`` is a bundle that both can read: made by the earlier one. Each round runs ``scaat run
--model`` of both into new folders, in processes of their own, start-up included. CPU time is that
of the command and all its workers.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


def one_run(scaat: Path, manifest: Path, model: Path, out: Path) -> dict[str, float]:
    """Wall and CPU seconds of ``scaat run --model``, and the patches that it explained."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["run", "--manifest", manifest, "--model", model, "--out", out, "--device", "cpu"]
    before, began = os.times(), time.perf_counter()
    subprocess.run([str(scaat), *map(str, words), "--quiet"], check=True)
    after = os.times()
    cpu_s = sum(
        getattr(after, name) - getattr(before, name)
        for name in ("children_user", "children_system")
    )
    wall_s = time.perf_counter() - began
    with (out / "slides.csv").open(encoding="utf-8", newline="") as table:
        n_patches = sum(int(row["n_patches"]) for row in csv.DictReader(table))
    return {"n_patches": n_patches, "wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--earlier", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    manifest = given.scratch / "cohort.csv"
    manifest.write_text(f"slide_path\n{given.slide.resolve()}\n", encoding="utf-8")
    now = Path(sys.executable).with_name("scaat")
    found: dict[str, list[dict[str, float]]] = {"earlier": [], "now": []}
    load = os.getloadavg()[0]
    for _ in range(given.rounds):
        for name, scaat in (("earlier", given.earlier), ("now", now)):
            found[name].append(one_run(scaat, manifest, given.model, given.scratch / name))
    least = {name: min(run["cpu_s"] for run in runs) for name, runs in found.items()}
    result = {
        "slide": given.slide.name,
        "load_average_before": round(load, 1),
        "runs": found,
        "cpu_ratio": round(least["earlier"] / least["now"], 2),
    }
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
