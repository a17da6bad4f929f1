"""Whether the method of explaining decides how well a whole slide's map finds the tumour.

Two halves of the annotated granular cell tumour scan (``evidence_map.py``: one half of the tumour
and one part of the normal tissue trains, the other halves are measured; 2 µm/px, the default
network and method of training), five seeds. The same model is explained by each method; measured is
the pixel average precision of the evidence map (what is drawn), of probability times saliency, and
of the probability alone, over the regions that were not trained on. One patient: this compares maps
of one model, and says nothing of other patients. ::

    python benchmarks/explained_slide.py --slides SLIDES --scratch D \
        --out benchmarks/results/explained-slide.json
    python benchmarks/explained_slide.py --demo --scratch D \
        --out benchmarks/results/explained-demo.json

``--demo`` asks the same of ``scaat demo``: a cohort and a training of its own a seed, and the
planted nests of the two slides of patients that the model never saw.

Written as each model ends; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from evidence_map import STEM, granular_parts, scores, stitched, write_polygons
from precision import machine

from pathology_scaat.annotations import read_annotations
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.evaluation.ground_truth import polygon_mask
from pathology_scaat.metrics.functional.statistics import holm
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.demo import demo
from pathology_scaat.pipeline.demo_scores import score_maps
from pathology_scaat.pipeline.run import run
from pathology_scaat.saliency import ExplainConfig, explain_slide
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide

METHODS = ("gradient", "gradient-blurred", "grad-cam", "fused-cam", "advise", "lrp")
DEMO_METHODS = ("gradient", "gradient-blurred", "grad-cam", "fused-cam")
MAPS = ("shipped", "p*s", "probability")
FOLDS = (0, 1)


def one(
    slides: Path, scratch: Path, fold: int, seed: int, epochs: int, row: dict[str, Any]
) -> dict[str, Any]:
    """Train on one half, explain by each method that ``row`` lacks, score on the other half."""
    folder = scratch / f"fold-{fold}-seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = granular_parts(slides)
    write_polygons(folder / "train.geojson", parts[fold])
    write_polygons(folder / "test.geojson", parts[1 - fold])
    (folder / "cohort.csv").write_text(
        "slide_path,slide_id,annotation_path\n"
        f"{slides / STEM}.svs,granular,{folder / 'train.geojson'}\n"
    )
    given = {
        "manifest": folder / "cohort.csv", "out": folder / "out", "seed": seed,
        "tile": {"mpp": 2.0, "patch_size_px": 128, "class_names": ["Normal", "Tumor"]},
        "train": {"epochs": epochs}, "export": {"formats": ["csv"]}, "engine": {"workers": 0},
    }  # fmt: skip
    run(load_run_config(None, given))
    space = Workspace(folder / "out")
    held = read_annotations(folder / "test.geojson")
    slide_map = SlideMap(space.map("granular"))
    tumour, normal = (
        polygon_mask([p for p in held if p.class_name == name], slide_map)
        for name in ("Tumor", "Normal")
    )
    found: dict[str, Any] = {"fold": fold, "seed": seed, **row}
    for method in METHODS:
        if method in found:
            continue
        store = folder / f"{method}.zarr"
        config = ExplainConfig(method=method)
        explain_slide(space.patches("granular"), space.model, store, config, "cpu")
        found[method] = {
            name: scores(stitched(store, name, folder), tumour, normal)["pixel_ap"] for name in MAPS
        }
        print(fold, seed, method, found[method], flush=True)
    return found


def demo_slides(scratch: Path, seed: int) -> list[dict[str, Any]]:
    """A demo, and its test slides explained by each method: a row a slide."""
    folder = scratch / f"demo-{seed}"
    made = demo(folder, workers=0, device="cpu", seed=seed)
    space = Workspace(made.run.out)
    rows = []
    for number, slide in enumerate(s for s in made.cohort.slides if s.split == "test"):
        row: dict[str, Any] = {"fold": number, "seed": seed}
        for method in DEMO_METHODS:
            store = space.saliency(slide.slide_id)
            config = ExplainConfig(method=method)
            explain_slide(space.patches(slide.slide_id), space.model, store, config, "cpu")
            stitch_slide(store, space.map(slide.slide_id), StitchConfig())
            (found,) = score_maps(made.run.out, [slide])
            row[method] = {
                "shipped": round(found.evidence.pixel_ap, 4),
                "p*s": round(found.saliency.pixel_ap, 4),
                "probability": round(found.probability.pixel_ap, 4),
            }
            print(seed, slide.slide_id, method, row[method], flush=True)
        rows.append(row)
    return rows


def against_gradient(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of each map, and each method's gain by seed (mean of the halves), Student's interval."""
    from scipy import stats

    seeds = sorted({row["seed"] for row in rows})
    methods = [m for m in METHODS if m in rows[0]]
    result: dict[str, Any] = {}
    for name in MAPS:
        by = {
            m: np.array([np.mean([r[m][name] for r in rows if r["seed"] == s]) for s in seeds])
            for m in methods
        }
        result[name] = {m: {"mean": round(float(v.mean()), 4)} for m, v in by.items()}
        if name == "probability" or len(seeds) < 2:
            continue
        others = methods[1:]
        gains = {m: by[m] - by[methods[0]] for m in others}
        p_values = [float(stats.ttest_1samp(gains[m], 0.0).pvalue) for m in others]
        for m, p in zip(others, holm(p_values), strict=True):
            gain = gains[m]
            half = float(stats.t.ppf(0.975, len(seeds) - 1)) * stats.sem(gain)
            result[name][m] |= {
                "gain": round(float(gain.mean()), 4), "low": round(float(gain.mean() - half), 4),
                "high": round(float(gain.mean() + half), 4), "p_holm": float(f"{p:.2g}"),
                "by_seed": [round(float(g), 4) for g in gain],
            }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slides", type=Path, help="folder of the granular scan")
    parser.add_argument("--demo", action="store_true", help="of the demo, not of that scan")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    rows = json.loads(given.out.read_text())["each"] if given.out.exists() else []
    kept = {(row["seed"], row["fold"]): row for row in rows}
    if given.demo:
        for seed in sorted(set(range(given.seeds)) - {row["seed"] for row in rows}):
            rows += demo_slides(given.scratch, seed)
            result = {
                "machine": machine(),
                "each": rows,
                "against_gradient": against_gradient(rows),
            }
            given.out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(against_gradient(rows), indent=1))
        return
    for seed in range(given.seeds):
        for fold in FOLDS:
            row = kept.get((seed, fold), {})
            if set(METHODS) <= set(row):
                continue
            found = one(given.slides, given.scratch, fold, seed, given.epochs, row)
            kept[seed, fold] = found
            rows = [kept[key] for key in sorted(kept)]
            result = {"machine": machine(), "epochs": given.epochs, "each": rows}
            if all(set(METHODS) <= set(each) for each in rows):
                result["against_gradient"] = against_gradient(rows)
            given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(against_gradient(rows), indent=1))


if __name__ == "__main__":
    main()
