r"""Do maps of bag models name the patches that the model uses? Patch flipping, with rivals.

The models that ``benchmarks/slide_labels.py`` left in its scratch folder are asked again with
parts of each test slide's patches (``evaluation/slide_faithfulness.py``): kept in order of the
map (contribution x position, and contribution alone), of the model's word on each patch alone, of
integrated gradients, of attention, and at random. On the test slides that hold tumour; seeds are
crossed with slides (each of a patient of its own) in all intervals.

::

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/slide_faithfulness.py --scratch D \
        --out benchmarks/results/slide-faithfulness.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.evaluation.slide_card import evidence_of_patches, slide_features, slide_seed
from pathology_scaat.evaluation.slide_faithfulness import measure_slide
from pathology_scaat.metrics.functional.statistics import clustered_mean, holm
from pathology_scaat.pipeline.demo_labels import TRUTH_CLASS
from pathology_scaat.saliency import ExplainConfig, explain_slide
from pathology_scaat.training import load_bundle
from pathology_scaat.training.bags.model import BagModel

ARMS = ("bag-scaat", "bag-plain")
ORDERS = ("evidence", "contribution", "single", "integrated-gradients", "attention", "random")


def measure_model(model: Path, patches: Workspace, slides: list[str], scratch: Path, seed: int):
    """Measures of each slide under one model; its maps are made in a scratch folder."""
    bundle = load_bundle(model)
    assert isinstance(bundle.model, BagModel)
    target = bundle.config.class_names.index(TRUTH_CLASS)
    found: dict[str, dict[str, float]] = {}
    for slide_id in slides:
        store = patches.patches(slide_id)
        saliency = scratch / f"{slide_id}.zarr"
        explain_slide(
            store,
            model,
            saliency,
            ExplainConfig(method="gradient", target=TRUTH_CLASS),
            "cpu",
            overwrite=True,
        )
        slide = slide_features(bundle, store, target, torch.device("cpu"))
        evidence = evidence_of_patches(bundle, saliency, store, TRUTH_CLASS)
        assert slide is not None
        own = slide_seed(slide_id, seed)
        measured = measure_slide(bundle.model.head, slide, own, evidence=evidence)
        found[slide_id] = {k: round(float(v), 5) for k, v in measured.items()}
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and intervals over seeds and slides, and the map against each rival."""
    result: dict[str, Any] = {}
    for arm in dict.fromkeys(run["arm"] for run in runs):
        mine = [run["slides"] for run in runs if run["arm"] == arm]
        slides = list(mine[0])

        def table(name: str, mine: list = mine, slides: list = slides) -> np.ndarray:
            return np.array([[run[s].get(name, np.nan) for s in slides] for run in mine])

        def interval_of(values: np.ndarray, slides: list = slides) -> dict[str, Any]:
            found = clustered_mean(values, np.arange(len(slides))).as_dict()
            return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}

        row = {f"flipping/{name}": interval_of(table(f"flipping/{name}")) for name in ORDERS}
        for kind in ("drop_most_first", "drop_least_first"):
            row |= {f"{kind}/{name}": interval_of(table(f"{kind}/{name}")) for name in ORDERS[:-1]}
        for name in ("necessity", "necessity/random", "sufficiency", "sufficiency/random",
                     "marked_share"):  # fmt: skip
            row[name] = interval_of(table(name))
        rivals = [name for name in ORDERS if name != "evidence"]
        differences = [
            interval_of(table("flipping/evidence") - table(f"flipping/{name}")) for name in rivals
        ]
        known = [d["p_value"] if d["p_value"] is not None else 1.0 for d in differences]
        for name, found, p in zip(rivals, differences, holm(known), strict=True):
            row[f"evidence - {name}"] = {**found, "p_holm": round(p, 5)}
        result[arm] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True, help="that of slide_labels.py")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/slide-faithfulness.json")
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"runs": []}
    if given.out.is_file():
        report = json.loads(given.out.read_text())
    rows = read_manifest(given.scratch / "slides" / "cohort.csv").rows
    slides = [r.slide_id for r in rows if r.split == "test" and r.label == TRUTH_CLASS]
    for seed in given.seeds:
        for arm in given.arms:
            model = given.scratch / "models" / f"{arm}-{seed}"
            done = {(run["arm"], run["seed"]) for run in report["runs"]}
            if (arm, seed) in done or not model.is_dir():
                continue
            found = measure_model(
                model, Workspace(given.scratch / "slide"), slides, given.scratch / "maps", seed
            )
            report["runs"].append({"arm": arm, "seed": seed, "slides": found})
            report["summary"] = summary(report["runs"])
            given.out.write_text(json.dumps(report, indent=1) + "\n")
            print(arm, seed, flush=True)
    for arm, row in report.get("summary", {}).items():
        for name, v in row.items():
            print(f"{arm:10s} {name:32s} {v['value']:.3f} ({v['low']} to {v['high']})")


if __name__ == "__main__":
    main()
