r"""Which class do tiles get under models of labels of slides, against the planted tumour?

The models that ``benchmarks/slide_labels.py`` left in its scratch folders say of each patch of the
test slides what it contributes. A tile holds tumour where a tenth of it is planted tumour, and is
of the class tumour from some probability on: from one half, as the larger of two probabilities
would have it, and from where a patch contributes more than little
(``training/bags/patch_meaning.py``), as exports have it.

::

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/slide_tiles.py --cohort demo --scratch D \
        --out benchmarks/results/slide-tiles.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import shapely
import shapely.geometry
import torch
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.evaluation.slide_card import slide_features
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.demo_labels import TRUTH_CLASS
from pathology_scaat.training import load_bundle
from pathology_scaat.training.bags.patch_meaning import least_said
from pathology_scaat.training.bags.slopes import patch_probability

LEAST_TUMOUR = 0.1


def tumour_share(store: PatchStore, truth: Path) -> NDArray[np.float64]:
    """Share of each patch's area that is planted tumour, (N,)."""
    features = json.loads(truth.read_text(encoding="utf-8"))["features"]
    outlines = [shapely.make_valid(shapely.geometry.shape(f["geometry"])) for f in features]
    whole = shapely.union_all(outlines)
    grid = store.meta.grid
    side = grid.patch_size_level0_px
    origins = grid.exact_origins_px(np.asarray(store.grid_index))
    boxes = shapely.box(*origins.T, *(origins + side).T)
    shares: NDArray[np.float64] = shapely.area(shapely.intersection(boxes, whole)) / side**2
    return shares


@torch.no_grad()
def measure(scratch: Path, model: Path) -> dict[str, float]:
    """Precision and recall of the class of tiles on slides with tumour, share called without."""
    patches = Workspace(scratch / "slide")
    rows = [r for r in read_manifest(scratch / "slides" / "cohort.csv").rows if r.split == "test"]
    bundle = load_bundle(model)
    target = bundle.config.class_names.index(TRUTH_CLASS)
    said: dict[bool, list[NDArray[np.float32]]] = {True: [], False: []}
    truth = []
    for row in rows:
        path = patches.patches(row.slide_id)
        slide = slide_features(bundle, path, target, torch.device("cpu"))
        assert slide is not None
        contributions = bundle.model.head.contributions(slide.features)
        positive = row.label == TRUTH_CLASS
        said[positive].append(
            patch_probability(contributions, slide.temperature)[:, target].numpy()
        )
        if positive:
            outlines = scratch / "slides" / "truth" / f"{row.slide_id}.geojson"
            truth.append(tumour_share(PatchStore(path), outlines) >= LEAST_TUMOUR)
    there, on_positive = np.concatenate(truth), np.concatenate(said[True])
    on_negative = np.concatenate(said[False])
    found = {"tumour_tiles": float(there.mean())}
    for name, least in (("from_one_half", 0.5), ("as_exported", least_said(2))):
        called = on_positive >= least
        found |= {
            f"{name}/precision": float(there[called].mean()),
            f"{name}/recall": float(called[there].mean()),
            f"{name}/called_without_tumour": float((on_negative >= least).mean()),
        }
    return {k: round(v, 4) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="classes of tiles under models of slides")
    parser.add_argument("--cohort", choices=["demo", "sparse"], required=True)
    parser.add_argument("--scratch", type=Path, nargs="+", required=True)
    parser.add_argument("--arm", default="bag-scaat")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/slide-tiles.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = json.loads(given.out.read_text()) if given.out.exists() else {}
    runs = done.setdefault(given.cohort, {})
    for scratch in given.scratch:
        for model in sorted((scratch / "models").glob(f"{given.arm}-*")):
            runs[model.name] = measure(scratch, model)
            print(model.name, runs[model.name], flush=True)
    given.out.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
