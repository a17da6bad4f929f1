r"""Which map of evidence fills the tumour and stays off normal tissue: candidates, measured.

Three kinds of truth that the model has not seen:

``granular``  two folds of the granular cell tumour scan: one half of the annotated tumour and one
              part of the normal tissue trains, the other halves are measured (2 µm/px, default
              network). One patient: this says which *map* of one model is better, not how good
              models are on other patients.
``demo``      the held-out slides of ``scaat demo`` (its planted tumour is known everywhere).
``planted``   synthetic patches with a mask: where *inside* a patch the evidence lies.

Measures: pixel average precision; share of the tumour above the value that 3 % of the normal
pixels exceed; average precision inside patches that hold both (mean over patches).

::

    python benchmarks/evidence_map.py --slides SLIDES --scratch D \
        --out benchmarks/results/evidence-map.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).parent / "evidence"))

import planted

from pathology_scaat.annotations import read_annotations
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.evaluation.ground_truth import polygon_mask
from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.metrics.functional.localisation import pixel_average_precision
from pathology_scaat.patches import PatchStoreMeta, write_patch_store
from pathology_scaat.patches.schema import SlideGeometry
from pathology_scaat.saliency import ExplainConfig, SaliencyStore, explain_slide
from pathology_scaat.saliency.store_writer import write_saliency_store
from pathology_scaat.scaat.evidence import patch_evidence
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide
from pathology_scaat.training import TrainConfig, TrainingSlide, train_model

STEM = "atlas_granular_cell_tumor_HE_20x"
NORMAL_SHARE = 0.03


Candidate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def smooth(s: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(s, (0, sigma, sigma), mode="reflect") if sigma else s


def mean_of(s: np.ndarray) -> np.ndarray:
    return np.maximum(s.mean(axis=(1, 2), keepdims=True), 1e-12)


def capped(sigma: float, cap: float) -> Candidate:
    """Smoothed first, cut at ``cap`` times the mean."""
    return lambda p, s: p * np.minimum(smooth(s, sigma) / mean_of(s), cap) / cap


def share(sigma: float, floor: float, power: float) -> Candidate:
    """``floor`` for the patch, the rest by place: strictly monotone in saliency, so that the
    order inside a patch is that of (smoothed) saliency."""

    def make(p: np.ndarray, s: np.ndarray) -> np.ndarray:
        t = (smooth(s, sigma) / mean_of(s)) ** power
        return p * (floor + (1 - floor) * t / (1 + t))

    return make


CANDIDATES: dict[str, Candidate] = {
    "probability": lambda p, s: p * np.ones_like(s),
    "p*s": lambda p, s: p * s,
    "p*s/mean": lambda p, s: p * s / mean_of(s),
    "p*min(s/mean,1)": lambda p, s: p * np.minimum(s / mean_of(s), 1),
    "p*min(s/mean,1), smoothed 4": lambda p, s: smooth(p * np.minimum(s / mean_of(s), 1), 4),
    "p*min(smooth4/mean,1)": capped(4, 1),
    **{
        f"p*({f:g}+{1 - f:g}*t^{g:g}/(1+t^{g:g})), smooth {k:g}": share(k, f, g)
        for f in (0, 0.25, 0.5)
        for g in (0.5, 0.75, 1.0)
        for k in (0, 1, 2)
    },
    "shipped": lambda p, s: patch_evidence(s, p[:, 0, 0]),
}


def covered(values: np.ndarray, tumour: np.ndarray, normal: np.ndarray) -> float:
    """Share of the tumour above what ``NORMAL_SHARE`` of the normal pixels exceed."""
    there = ~np.isnan(values)
    level = np.quantile(values[normal & there], 1 - NORMAL_SHARE)
    return float((values[tumour & there] > level).mean())


def stitched(source: Path, name: str, scratch: Path) -> np.ndarray:
    """A candidate's values stitched as a map: the patches of ``source``, its window."""
    store = SaliencyStore(source)
    p = store.target_probability.astype(np.float64)[:, None, None]
    values = CANDIDATES[name](p, store.read_saliency(slice(None)).astype(np.float64))
    made, slide_map = scratch / "candidate.zarr", scratch / "candidate.ome.zarr"
    write_saliency_store(
        made, store.meta, values, store.probability, store.origins_px, store.grid_index
    )
    stitch_slide(made, slide_map, StitchConfig(weighting="none"), overwrite=True)
    return SlideMap(slide_map).read("saliency")


def scores(values: np.ndarray, tumour: np.ndarray, normal: np.ndarray) -> dict[str, float]:
    known = np.where(tumour | normal, values, np.nan)
    return {
        "pixel_ap": round(pixel_average_precision(known, tumour), 4),
        "covered_at_3_percent": round(covered(values, tumour, normal), 4),
    }


# -- the granular slide, by halves
def granular_parts(slides: Path) -> tuple[list, list]:
    """Two halves of the annotations: (tumour left, large normal) and (tumour right, the rest)."""
    polygons = read_annotations(slides / f"{STEM}.geojson")
    tumour = next(p for p in polygons if p.class_name == "Tumor")
    normal = sorted(
        (p for p in polygons if p.class_name == "Normal"), key=lambda p: p.geometry.area
    )
    x0, y0, x1, y1 = tumour.geometry.bounds
    cuts = (x0 + 0.47 * (x1 - x0), x0 + 0.53 * (x1 - x0))  # patches of 512 px must not see both
    left = tumour.geometry.intersection(shapely.box(x0, y0, cuts[0], y1))
    right = tumour.geometry.intersection(shapely.box(cuts[1], y0, x1, y1))
    return (
        [("Tumor", left), ("Normal", normal[-1].geometry)],
        [("Tumor", right), *(("Normal", n.geometry) for n in normal[:-1])],
    )


def write_polygons(path: Path, parts: list) -> None:
    features = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shape)),
         "properties": {"objectType": "annotation", "classification": {"name": name}}}
        for name, shape in parts
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def granular(slides: Path, scratch: Path, epochs: int, seeds: int) -> dict[str, list]:
    from pathology_scaat.pipeline.config import load_run_config
    from pathology_scaat.pipeline.run import run

    found: dict[str, list] = {name: [] for name in CANDIDATES}
    parts = granular_parts(slides)
    for fold in (0, 1):
        for seed in range(seeds):
            folder = scratch / f"granular-{fold}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            write_polygons(folder / "train.geojson", parts[fold])
            write_polygons(folder / "test.geojson", parts[1 - fold])
            (folder / "cohort.csv").write_text(
                "slide_path,slide_id,annotation_path\n"
                f"{slides / STEM}.svs,granular,{folder / 'train.geojson'}\n"
            )
            run(
                load_run_config(
                    None,
                    {"manifest": folder / "cohort.csv", "out": folder / "out", "seed": seed,
                     "tile": {"mpp": 2.0, "patch_size_px": 128, "class_names": ["Normal", "Tumor"]},
                     "train": {"epochs": epochs}, "export": {"formats": ["csv"]}},
                )
            )  # fmt: skip
            space = Workspace(folder / "out")
            slide_map = SlideMap(space.map("granular"))
            held = read_annotations(folder / "test.geojson")
            tumour, normal = (
                polygon_mask([p for p in held if p.class_name == name], slide_map)
                for name in ("Tumor", "Normal")
            )
            for name in CANDIDATES:
                values = stitched(space.saliency("granular"), name, folder)
                found[name].append(scores(values, tumour, normal))
    return found


# -- the demo's held-out slides
def demo(scratch: Path) -> dict[str, list]:
    from pathology_scaat.pipeline.demo import demo as make

    report = make(scratch / "demo", workers=1)
    found: dict[str, list] = {name: [] for name in CANDIDATES}
    for slide in report.cohort.slides:
        if slide.split != "test":
            continue
        space = Workspace(report.run.out)
        slide_map = SlideMap(space.map(slide.slide_id))
        mask = polygon_mask(
            [p for p in read_annotations(slide.truth_path) if p.class_name == "Tumor"], slide_map
        )
        if not mask.any():
            continue
        for name in CANDIDATES:
            values = stitched(space.saliency(slide.slide_id), name, scratch)
            found[name].append(
                {
                    **scores(values, mask, ~mask),
                    "inside_ap": inside_patches(space, slide, name, mask),
                }
            )
    return found


def inside_patches(space: Workspace, slide, name: str, mask: np.ndarray) -> float:
    """Mean AP inside the patches of a slide that hold 10 to 90 % of tumour."""
    store = SaliencyStore(space.saliency(slide.slide_id))
    slide_map = SlideMap(space.map(slide.slide_id))
    p = store.target_probability.astype(np.float64)[:, None, None]
    values = CANDIDATES[name](p, store.read_saliency(slice(None)).astype(np.float64))
    side = values.shape[1]
    frame = slide_map.frame_px
    aps = []
    for i, (x, y) in enumerate((store.origins_px - (frame.x, frame.y)) / slide_map.scale_px):
        r, c = round(y), round(x)
        truth = mask[r : r + side, c : c + side]
        if truth.shape == (side, side) and 0.1 < truth.mean() < 0.9:
            aps.append(pixel_average_precision(values[i], truth))
    return round(float(np.mean(aps)), 4) if aps else float("nan")


# -- planted patches
def planted_store(path: Path, seed: int, patients: int) -> planted.PlantedPatches:
    made = planted.make_patches(patients, 40, seed, size=64)
    n = len(made.images)
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 64, 20, -(-n // 20))
    meta = PatchStoreMeta(
        slide_id=path.stem, slide_fingerprint=f"{seed:064d}", fingerprint=f"{n + seed:064x}",
        slide=SlideGeometry(SizePx(20 * 64, grid.n_rows * 64), 0.5, "slide"), grid=grid,
        requested_mpp=0.5, effective_mpp=0.5, level_read=0, class_names=("Normal", "Tumor"),
    )  # fmt: skip
    write_patch_store(
        path,
        meta,
        made.images,
        grid_index=grid.all_indices()[:n],
        label=made.labels.astype(np.int16),
    )
    return made


def planted_scores(scratch: Path, epochs: int, seeds: int) -> dict[str, list]:
    found: dict[str, list] = {name: [] for name in CANDIDATES}
    for seed in range(seeds):
        folder = scratch / f"planted-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        roles = (("train", 20), ("val", 8), ("test", 8))
        data = {
            role: planted_store(folder / f"{role}.zarr", 100 * seed + k, count)
            for k, (role, count) in enumerate(roles)
        }
        slides = [TrainingSlide(folder / f"{r}.zarr", r, r, r) for r, _ in roles]
        train_model(slides, folder / "model", TrainConfig(epochs=epochs), device="cpu", seed=seed)
        explain_slide(
            folder / "test.zarr",
            folder / "model",
            folder / "saliency.zarr",
            ExplainConfig(method="gradient"),
            "cpu",
        )
        store = SaliencyStore(folder / "saliency.zarr")
        p = store.target_probability.astype(np.float64)[:, None, None]
        s = store.read_saliency(slice(None)).astype(np.float64)
        test = data["test"]
        positive = np.flatnonzero((test.labels == 1) & test.masks.any(axis=(1, 2)))
        for name, make in CANDIDATES.items():
            values = make(p, s).repeat(4, axis=1).repeat(4, axis=2)
            every = np.stack([values[i] for i in range(len(values))])
            aps = [pixel_average_precision(values[i], test.masks[i]) for i in positive]
            found[name].append(
                {"pixel_ap": round(pixel_average_precision(every, test.masks), 4),
                 "inside_ap": round(float(np.mean(aps)), 4)}
            )  # fmt: skip
    return found


def summary(found: dict[str, list]) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(float(np.mean([r[key] for r in rows])), 4) for key in rows[0]}
        for name, rows in found.items()
        if rows
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=Path, required=True, help="folder of the granular scan")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--parts", nargs="*", default=["planted", "granular", "demo"])
    given = parser.parse_args()
    given.scratch.mkdir(parents=True, exist_ok=True)
    result = {}
    for part in given.parts:
        if part == "granular":
            found = granular(given.slides, given.scratch, given.epochs, given.seeds)
        elif part == "planted":
            found = planted_scores(given.scratch, given.epochs, given.seeds)
        else:
            found = demo(given.scratch)
        result[part] = {"mean": summary(found), "each": found}
        print(part)
        for name, row in summary(found).items():
            print(f"  {name:40s}", row, flush=True)
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
