r"""Referrals on the demo's cohort: is the true class possible for nine patients of ten?

The bag models that ``benchmarks/slide_labels.py`` left in its scratch folder predict the validation
and test slides again. Conformal sets are calibrated on the ten validation patients, as any run does
it (``evaluation/performance/conformal.py``), and judged on the twenty test patients.

With so few calibration patients the limit is their largest score but none, so that theory itself
promises 10/11 = .909 on average over cohorts, and one cohort may lie far from it. Seeds share their
patients: their spread is that of the training alone.

::

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/slide_referral.py --scratch D \
        --out benchmarks/results/slide-referral.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.metrics.functional.roc import roc_auc
from pathology_scaat.pipeline.predict import predict

ARMS = ("bag-scaat", "bag-plain")


def measure(scratch: Path, model: Path) -> dict[str, Any]:
    """Coverage, referrals, and whether wrong calls are the uncertain ones, on the test patients."""
    manifest = read_manifest(scratch / "slides" / "cohort.csv")
    rows = tuple(r for r in manifest.rows if r.split != "train")
    report = predict(
        scratch / "slide", manifest=replace(manifest, rows=rows), models=[model], device="cpu"
    )
    assert report.performance is not None
    abstention = report.performance.abstention
    names, positive = report.performance.class_names, report.performance.positive_class
    test = [p for p in report.predictions if p.split == "test"]
    wrong = np.array([p.called(names, positive) != p.label for p in test])
    doubt = np.array([p.uncertainty for p in test])
    return {
        "n_calibration": abstention["n_calibration"],
        **abstention["judged"]["test"],
        "n_wrong": int(wrong.sum()),
        "wrong_and_referred": int(
            sum(w and bool(p.refer) for w, p in zip(wrong, test, strict=True))
        ),
        "auroc_of_uncertainty_for_wrong": round(float(roc_auc(doubt, wrong)), 4)
        if 0 < wrong.sum() < len(wrong)
        else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True, help="that of slide_labels.py")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/slide-referral.json"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = [
        {"arm": arm, "seed": seed, **measure(given.scratch, model)}
        for arm in given.arms
        for seed in given.seeds
        if (model := given.scratch / "models" / f"{arm}-{seed}").is_dir()
    ]
    summary = {
        arm: {
            key: round(float(np.mean([r[key] for r in runs if r["arm"] == arm])), 4)
            for key in ("coverage", "referred", "accuracy_of_all", "n_wrong", "wrong_and_referred")
        }
        for arm in dict.fromkeys(r["arm"] for r in runs)
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"runs": runs, "summary": summary}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
