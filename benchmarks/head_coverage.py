r"""Conformal coverage of heads on features, over many cohorts drawn from the demo's 62 patients.

One cohort says little of coverage: here the same patients are dealt anew each time, some of them
into a cohort of elsewhere that is judged, and heads are trained, calibrated and applied by the
functions that the commands call. Two ways of calibrating, as users have them:

- ``folds``: heads of five folds on 40 patients; their out-of-fold predictions calibrate, and all
  heads together predict the 22 others. Conformal theory does not hold strictly there: what
  calibrates is the word of one head, what is judged that of five.
- ``single``: one head; the ten validation patients, which also chose its epoch and temperature,
  calibrate.

Features are those of one of the models that ``benchmarks/slide_labels.py`` left in its scratch
folder with its patch stores. It was trained on 32 of the 62 slides, so that accuracy here is
flattered; coverage is not, since patients are dealt at random whatever their features are. (On
features of a random network heads learn next to nothing, and nearly everybody is referred.) Draws
share patients: the standard error over draws is too small for other cohorts. Resumable: draws
that the result holds are not done again.

::

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/head_coverage.py --scratch D --work W --draws 20
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import ManifestRow, read_manifest
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.head_predictions import predict_heads
from pathology_scaat.pipeline.head_training import train_heads
from pathology_scaat.training import TrainConfig, load_bundle
from pathology_scaat.training.bags.predict import encode

N_OUTSIDE = 22
N_FOLDS = 5
EPOCHS = 20
MOST_PATCHES = 200
"""Patches of a slide, evenly spread, without coordinates: nothing is written of each patch."""
RESULT = Path("benchmarks/results/head-coverage.json")


@torch.no_grad()
def features_of(scratch: Path, work: Path, model: str, rows: Sequence[ManifestRow]) -> Path:
    """Features of all slides by the encoder of a model, computed where they are not there yet."""
    found = work / f"features-{model}"
    found.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(scratch / "models" / model, "cpu")
    space = Workspace(scratch / "slide")
    for row in rows:
        path = found / f"{row.slide_id}.h5"
        if not path.exists():
            store = PatchStore(space.patches(row.slide_id))
            n = len(store)
            chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_PATCHES)).astype(int))
            pixels = torch.from_numpy(store.read(chosen))
            with h5py.File(path, "w") as file:
                file["features"] = encode(bundle.model, pixels.split(64)).numpy()
    return found


def write_table(path: Path, rows: Sequence[ManifestRow]) -> Path:
    lines = ["slide_id,patient_id,label"]
    lines += [f"{r.slide_id},{r.patient_id},{r.label}" for r in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def draw(rows: Sequence[ManifestRow], features: Path, work: Path, seed: int) -> dict[str, Any]:
    """Coverage on the patients of elsewhere, of both ways, for one drawing."""
    order = np.random.default_rng(seed).permutation(len(rows))
    folder = work / f"draw-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    outside = write_table(folder / "outside.csv", [rows[i] for i in order[:N_OUTSIDE]])
    own = write_table(folder / "own.csv", [rows[i] for i in order[N_OUTSIDE:]])
    found: dict[str, Any] = {"seed": seed}
    for name, n_folds in (("folds", N_FOLDS), ("single", None)):
        out = folder / name
        train_heads(
            own, out, features, config=TrainConfig(epochs=EPOCHS), n_folds=n_folds,
            test_manifest=outside, seed=seed,
        )  # fmt: skip
        (told,) = predict_heads(own, out, features, test_manifest=outside, seed=seed)
        record = told.external_performance if n_folds else told.performance
        assert record is not None
        n_calibration = record["abstention"]["n_calibration"]
        found[name] = {
            "n_calibration": n_calibration,
            **record["abstention"]["judged"]["external test"],
            "promised": round(math.ceil(0.9 * (n_calibration + 1)) / (n_calibration + 1), 4),
            "auroc": record["auroc"],
        }
    shutil.rmtree(folder)
    return found


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the draws, and the standard error of the coverage over them."""
    told = {}
    for name in ("folds", "single"):
        values = {
            key: [r[name][key] for r in runs]
            for key in ("coverage", "referred", "accuracy_of_all", "auroc", "promised")
        }
        told[name] = {key: round(float(np.mean(found)), 4) for key, found in values.items()}
        spread = np.std(values["coverage"], ddof=1) / math.sqrt(len(runs))
        told[name]["coverage_standard_error"] = round(float(spread), 4)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True, help="that of slide_labels.py")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="bag-plain-0", help="whose encoder gives features")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    manifest = read_manifest(given.scratch / "slides" / "cohort.csv")
    features = features_of(given.scratch, given.work, given.model, manifest.rows)
    runs = json.loads(given.out.read_text())["runs"] if given.out.exists() else []
    for seed in range(len(runs), given.draws):
        started = time.process_time()
        runs.append(draw(manifest.rows, features, given.work, seed))
        print(seed, runs[-1], f"{time.process_time() - started:.1f} CPU s", flush=True)
        if len(runs) > 1:
            told = {"runs": runs, "summary": summary(runs)}
            given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
